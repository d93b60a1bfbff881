"""How does an image become what its inputs say?

Step by step, as ``steps`` says, until it is.

The image is named only after its inputs were looked at a second time, their contents and their times: an edit during
the build is seen, also one that was undone (``stamps`` says where the times tell; doit itself saves the state of files
after the action). What only BuildKit reads, a remote context or an ``ADD`` of a URL, is not looked at.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

from doit_images.core import capacity, external_bases
from doit_images.core.around import Peers
from doit_images.core.base import commands, extras
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.base.references import tag_of
from doit_images.core.building import build_image, build_lock, fetch, prune_lock, results
from doit_images.core.building.attempt import AGAIN, Attempt, ImageBuild, InputsChanged
from doit_images.core.building.events import ImageEnded, ImageNoted, ImageStarted, ImageState
from doit_images.core.building.prune_lock import SharedLock
from doit_images.core.building.steps import Right, Step, Work, next_step
from doit_images.core.engine.client import Gone
from doit_images.core.planner import Planner
from doit_images.core.planning.plan import Action, Decision, built_for, rebuilt, replaces
from doit_images.core.planning.reasons import NO_CACHE
from doit_images.core.planning.shared_image import SharedRef, shared_ref_of
from doit_images.core.run import Run

_BEGUN = Work()
_PRUNING = "waits for cache_prune"


def make(run: Run, name: str) -> object:
    """The action of one image: do what the plan says, and leave its record. A failure is doit's ``TaskFailed``."""
    return _reported(run, name, _BEGUN)


def rebuild(run: Run, name: str) -> object:
    """The same, but build it in any case, without any cache."""
    return _reported(run, name, Work(rebuild=True))


def _reported(run: Run, name: str, work: Work) -> object:
    from doit.exceptions import TaskFailed

    waits = ImageNoted(name, _PRUNING)
    try:
        with extras.told(), prune_lock.shared(run.engine, lambda: run.events.emit(waits)) as pruning:
            if not work.rebuild and run.selected is not None and _left_out(run.planner, name, run.selected):
                run.events.emit(ImageEnded(name, ImageState.LEFT))
            else:
                make_image(run, name, pruning, work)
    except UserError as error:
        return TaskFailed(run.parts.names.in_text(str(error)))
    except OSError as error:  # the disk is full, or a folder of ours is not ours any more
        return TaskFailed(f"{name}: {os_reason(error)}")
    except commands.Stopped:
        run.events.emit(ImageEnded(name, ImageState.CANCELLED))
        return TaskFailed("stopped")
    return None


def _left_out(planner: Planner, name: str, selected: frozenset[str]) -> bool:
    """Whether an image that could be pulled is only there for others to be built on, and of those that were asked for,
    and what they are built on, none is built. Who builds after all, where a pull fails, brings its parents itself."""
    if name in selected:
        return False
    decisions = planner.decisions()
    if decisions[name].action != Action.PULL:
        return False
    return not any(name in decisions[each].coming for each in built_for(selected, decisions))


def make_image(run: Run, name: str, pruning: SharedLock, work: Work = _BEGUN) -> None:
    """Let an image become what its inputs say, step by step (``steps``). Raises ``UserError`` and ``Stopped``."""
    with ExitStack() as stack:
        job = _Job(run, name, pruning, stack)
        while (step := next_step(work)) != Step.END:
            work = job.done(work, step)


class _Job:
    """The work on one image in a run, which may need any part of it; ``pruning`` is held meanwhile."""

    def __init__(self, run: Run, name: str, pruning: SharedLock, stack: ExitStack) -> None:
        self.run, self.name, self.pruning = run, name, pruning
        self.rights = {right: stack.enter_context(ExitStack()) for right in Right}
        """What it has taken of what others want, too. Closing one gives it back."""

    def note(self, text: str) -> None:
        """Say what the image waits for, or what is done for it."""
        self.run.events.emit(ImageNoted(self.name, text))

    def done(self, work: Work, step: Step) -> Work:
        """Do one step; how far the work is then."""
        run, decision = self.run, work.decision
        if decision is None:  # `Step.DECIDE`
            return self._decide(work)
        match step:
            case Step.KEEP:
                run.events.emit(ImageEnded(self.name, ImageState.FRESH))
                results.keep_record(run.folder, decision, decision.local_image, 0.0)
                return replace(work, ended=True)
            case Step.TAG:
                return replace(work, ended=True) if self._tag(decision) else work.undecided()
            case Step.PULL:
                self.rights[Right.LEASE].close()  # those who waited for the result may all have it now
                return replace(work, ended=True) if self._pull(decision) else work.without(Right.LEASE).undecided()
            case Step.WAIT_FOR_RUN:
                return self._wait_for_run(decision, work)
            case Step.WAIT_FOR_MACHINE | Step.LEASE_IF_FREE:
                return self._lease(decision, work, wait=step == Step.WAIT_FOR_MACHINE)
            case Step.WAIT_FOR_CAPACITY | Step.CAPACITY_IF_FREE:
                return self._capacity(work, wait=step == Step.WAIT_FOR_CAPACITY)
            case Step.BUILD:
                return self._build(decision, work)
        raise UserError("; ".join(decision.reasons))

    def _decide(self, work: Work) -> Work:
        run, decision, mark = self.run, self._decided(), work.attempt.rebuilt
        again = work.rebuild and decision.action != Action.BROKEN
        if again or (run.settings.registry_only and replaces(decision)):
            mark = mark or _mark(run.peers, decision)
        if again:
            decision = decision._replace(action=Action.BUILD, reasons=(NO_CACHE,))
        leased = work.leased if Right.LEASE in work.held else self._leased(decision)
        attempt = replace(work.attempt, no_cache=again, rebuilt=mark)
        return replace(work, decision=decision, attempt=attempt, leased=leased)

    def _decided(self) -> Decision:
        """What is to be done about the image now, its bases and its parents being there: doit sees to parents before it
        comes to the image, but they may have been removed or edited since."""
        run, decision = self.run, self._looked(self.name)
        if decision.inputs.image.pull and run.external_bases.pull(decision.inputs, self.note):
            decision = self._looked(self.name)
        # A pull needs none of them.
        while decision.action == Action.BUILD and run.external_bases.bring(decision.inputs, self.note):
            decision = self._looked(self.name)
        for parent in decision.coming:
            with run.parents[parent]:
                if self._looked(parent).stale:
                    make_image(run, parent, self.pruning)
        return self._looked(self.name) if decision.coming else decision

    def _looked(self, name: str) -> Decision:
        try:
            return self.run.planner.decide_again(name)
        except UserError:  # an image that the engine listed before may be gone
            self.run.local_images.changed()
            return self.run.planner.decide_again(name)

    def _pull(self, decision: Decision) -> bool:
        """Let the engine have what the shared registry offers; false if it is not what was promised, or does not
        come."""
        run, name = self.run, self.name
        run.events.emit(ImageStarted(name, Action.PULL, decision.reasons, run.expected.pulls.get(name)))
        local_image = fetch.fetched(run, decision)
        if local_image:
            run.events.emit(ImageEnded(name, ImageState.PULLED, size=local_image.size))
        else:
            run.asked.now()  # else a result that does not come would be tried in every run
        return local_image is not None

    def _tag(self, decision: Decision) -> bool:
        """Give an image that is here its names; false if it is not here any more, as after another checkout's
        pruning."""
        run, local_image, began = self.run, decision.local_image, time.time()
        if local_image is None:
            raise ValueError("retag is decided from an image that the engine holds")
        run.events.emit(ImageStarted(self.name, Action.RETAG, decision.reasons))
        try:
            results.name_image(run.engine, run.local_images, decision, local_image.id)
        except Gone:
            run.local_images.changed()
            return False
        results.keep(run, decision, local_image, began)
        run.events.emit(ImageEnded(self.name, ImageState.RETAGGED))
        return True

    def _wait_for_run(self, decision: Decision, work: Work) -> Work:
        """Take the build lock. Of two runs that want the same, the second finds what the first has built."""
        run, inputs = self.run, decision.inputs
        self.rights[Right.BUILD_LOCK].enter_context(
            build_lock.taken(run.engine.address, inputs, run.files[0].parent, self.note)
        )
        there: object = inputs.fingerprint
        if run.settings.registry_only:  # the next question whether it is there is put to the registry
            if there := shared_ref_of(inputs, run.local_images.snapshot().platform):
                run.peers.results.forget(there)
        elif there:
            there = run.engine.tagged(tag_of(inputs.image.ref, inputs.fingerprint))
        if there:
            run.local_images.changed()
            work = work.undecided()
        return work.having(Right.BUILD_LOCK)

    def _leased(self, decision: Decision) -> SharedRef | None:
        """What other machines know a build by, where there are any to ask; most builds concern nobody else."""
        run = self.run
        if not (decision.builds and run.settings.redis_url and run.settings.cache_registry):
            return None
        asked = run.peers.leases.on and run.peers.results.reads
        return shared_ref_of(decision.inputs, run.local_images.snapshot().platform) if asked else None

    def _lease(self, decision: Decision, work: Work, *, wait: bool) -> Work:
        """Take the lease, or watch it; without ``wait`` only if it is free, else the capacity is given back. What waits
        does not hold the lock of pruning."""
        run = self.run
        if work.leased is None:
            raise ValueError("a lease is taken where other machines are asked")

        def waits(who: str) -> None:
            if not wait:
                raise build_lock.Elsewhere
            self.pruning.let_go()
            self.note(f"waits for {who}, which builds it")

        if wait and not work.attempt.number:
            self._started(decision)
        leased = build_lock.leased(run.peers, work.leased, waits, run.expected.builds.get(self.name))
        try:
            again = self.rights[Right.LEASE].enter_context(leased)
        except build_lock.Elsewhere:
            self.rights[Right.CAPACITY].close()
            return replace(work.without(Right.CAPACITY), crowded=False)
        if self.pruning.take(lambda: self.note(_PRUNING)):
            run.local_images.changed()
        return (work if again else work.having(Right.LEASE)).undecided()

    def _capacity(self, work: Work, *, wait: bool) -> Work:
        """Have capacity; without ``wait`` only if there is some left, else the lease is given back."""
        if self.name not in self.run.project.needs:
            return work.having(Right.CAPACITY)
        # A lease that Redis has lost keeps nobody waiting.
        wait = wait or work.leased is None or not self.run.peers.leases.holds(work.leased.turn)
        try:
            self.rights[Right.CAPACITY].enter_context(self.run.capacity.taken(self.name, self.note, wait=wait))
        except capacity.Full:
            self.rights[Right.LEASE].close()
            return replace(work.without(Right.LEASE), crowded=True)
        return work.having(Right.CAPACITY)

    def _build(self, decision: Decision, work: Work) -> Work:
        """Build it; again, twice at most, where something moved meanwhile."""
        run, name, attempt = self.run, self.name, work.attempt
        external_bases.refuse_foreign(run.local_images, decision.inputs)
        build_image.begin(run)
        if not attempt.number:
            self._started(decision)
        one = ImageBuild(run, decision, attempt)
        try:
            outcome, local_image = build_image.built(one)
        except InputsChanged as changed:
            number = attempt.number + 1
            if number > AGAIN:
                run.events.emit(ImageEnded(name, ImageState.INPUTS_CHANGED))
                what = f"{name}: {changed} while it was built, so the result is not taken"
                raise UserError(what, remedy="run it again") from None
            run.events.say(f"{name}: {changed} while it was built, building again ({number} of {AGAIN})")
            for right in reversed(Right):
                self.rights[right].close()
            again = Attempt(number, attempt.no_cache, changed.result, attempt.rebuilt)
            return Work(attempt=again, rebuild=work.rebuild)
        self.rights[Right.CAPACITY].close()
        build_image.keep(one, outcome, local_image)
        return replace(work, ended=True)

    def _started(self, decision: Decision) -> None:
        seconds = self.run.expected.builds.get(self.name)
        self.run.events.emit(ImageStarted(self.name, Action.BUILD, decision.reasons, seconds))


def _mark(peers: Peers, decision: Decision) -> str:
    """The label of a rebuild on purpose: now, or just after the last such rebuild that is known, whose machine's clock
    may be ahead."""
    here = rebuilt(decision.local_image.labels) if decision.local_image else 0
    return str(max(int(time.time()), 1 + max(here, peers.rebuilt(decision))))
