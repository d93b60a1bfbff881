"""How does an image become what its inputs say?

Step by step, as ``steps`` says, until it is.

The image is named only after its inputs were looked at a second time, their contents and their times: an edit during
the build is seen, also one that was undone (``stamps`` says where the times tell; doit itself saves the state of files
after the action). What only BuildKit reads, a remote context or an ``ADD`` of a URL, is not looked at.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from doit_images.core.around import Peers
from doit_images.core.base import commands, extras
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.base.events import Events
from doit_images.core.building import build_image, build_lock, capacity, externals, fetch, prune_lock, results
from doit_images.core.building.attempt import AGAIN, Attempt, ImageBuild, InputsChanged
from doit_images.core.building.events import ImageEnded, ImageNoted, ImageStarted, ImageState
from doit_images.core.building.steps import Right, Step, Work, next_step
from doit_images.core.engine.client import Gone
from doit_images.core.planning.plan import Action, Decision, built_for, rebuilt, replaces
from doit_images.core.planning.reasons import NO_CACHE
from doit_images.core.planning.shared_image import SharedRef, shared_ref_of
from doit_images.core.run import Run

Rights = Mapping[Right, ExitStack]
"""What the work on one image has taken of what others want, too. Closing one gives it back."""
_BEGUN = Work()


class _Parents:
    """The parents that were removed or edited in a run and are being made again, which children that are built side by
    side do once."""

    def __init__(self) -> None:
        self.first: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def make(run: Run, name: str) -> Any:
    """The action of one image: do what the plan says, and leave its record. A failure is doit's ``TaskFailed``."""
    return _reported(run, name, _BEGUN)


def rebuild(run: Run, name: str) -> object:
    """The same, but build it in any case, without any cache."""
    return _reported(run, name, Work(rebuild=True))


def _reported(run: Run, name: str, work: Work) -> Any:
    from doit.exceptions import TaskFailed

    waits = _waits_for_pruning(run.events, name)
    try:
        with extras.told(), prune_lock.shared(run, waits):
            if not work.rebuild and _left_out(run, name):
                run.events.emit(ImageEnded(name, ImageState.LEFT))
            else:
                make_image(run, name, work)
    except UserError as error:
        return TaskFailed(run.parts.names.in_text(str(error)))
    except OSError as error:  # the disk is full, or a folder of ours is not ours any more
        return TaskFailed(f"{name}: {os_reason(error)}")
    except commands.Stopped:
        run.events.emit(ImageEnded(name, ImageState.CANCELLED))
        return TaskFailed("stopped")
    return None


def _waits_for_pruning(events: Events, name: str) -> Callable[[], None]:
    return lambda: events.emit(ImageNoted(name, "waits for cache_prune"))


def _left_out(run: Run, name: str) -> bool:
    """Whether an image that could be pulled is only there for others to be built on, and of those that were asked for,
    and what they are built on, none is built. Who builds after all, where a pull fails, brings its parents itself."""
    if run.selected is None or name in run.selected:
        return False
    decisions = run.planner.decisions()
    if decisions[name].action != Action.PULL:
        return False
    return not any(name in decisions[each].coming for each in built_for(run.selected, decisions))


def make_image(run: Run, name: str, work: Work = _BEGUN) -> None:
    """Let an image become what its inputs say, step by step (``steps``). Raises ``UserError`` and ``Stopped``."""
    with ExitStack() as stack:
        rights = {right: stack.enter_context(ExitStack()) for right in Right}
        while (step := next_step(work)) != Step.END:
            work = _done(run, name, work, step, rights)


def _done(run: Run, name: str, work: Work, step: Step, rights: Rights) -> Work:
    """Do one step; how far the work is then."""
    decision = work.decision
    if decision is None:  # `Step.DECIDE`
        return _decide(run, name, work)
    match step:
        case Step.KEEP:
            run.events.emit(ImageEnded(name, ImageState.FRESH))
            results.keep_record(run.folder, decision, decision.local_image, 0.0)
            return replace(work, ended=True)
        case Step.TAG:
            return replace(work, ended=True) if _tag(run, decision) else work.undecided()
        case Step.PULL:
            rights[Right.LEASE].close()  # those who waited for the result may all have it now
            return replace(work, ended=True) if _pull(run, decision) else work.without(Right.LEASE).undecided()
        case Step.WAIT_FOR_RUN:
            return _wait_for_run(run, decision, work, rights)
        case Step.WAIT_FOR_MACHINE | Step.LEASE_IF_FREE:
            return _lease(run, decision, work, rights, wait=step == Step.WAIT_FOR_MACHINE)
        case Step.WAIT_FOR_CAPACITY | Step.CAPACITY_IF_FREE:
            return _capacity(run, decision, work, rights, wait=step == Step.WAIT_FOR_CAPACITY)
        case Step.BUILD:
            return _build(run, decision, work, rights)
    raise UserError("; ".join(decision.reasons))


def _decide(run: Run, name: str, work: Work) -> Work:
    decision = _decided(run, name)
    mark = work.attempt.rebuilt
    again = work.rebuild and decision.action != Action.BROKEN
    if again or (run.settings.registry_only and replaces(decision)):
        mark = mark or _mark(run.peers, decision)
    if again:
        decision = decision._replace(action=Action.BUILD, reasons=(NO_CACHE,))
    leased = work.leased if Right.LEASE in work.held else _leased(run, decision)
    attempt = replace(work.attempt, no_cache=again, rebuilt=mark)
    return replace(work, decision=decision, attempt=attempt, leased=leased)


def _decided(run: Run, name: str) -> Decision:
    """What is to be done about an image now, its bases and its parents being there: doit sees to parents before it
    comes to the image, but they may have been removed or edited since."""
    decision = _looked(run, name)
    if decision.inputs.image.pull and externals.pull(run, decision):
        decision = _looked(run, name)
    while decision.action == Action.BUILD and externals.bring(run, decision):  # a pull needs none of them
        decision = _looked(run, name)
    for parent in decision.coming:
        with run.kept(_Parents).first[parent]:
            if _looked(run, parent).stale:
                make_image(run, parent)
    return _looked(run, name) if decision.coming else decision


def _looked(run: Run, name: str) -> Decision:
    try:
        return run.planner.decide_again(name)
    except UserError:  # an image that the engine listed before may be gone
        run.local_images.changed()
        return run.planner.decide_again(name)


def _mark(peers: Peers, decision: Decision) -> str:
    """The label of a rebuild on purpose: now, or just after the last such rebuild that is known, whose machine's clock
    may be ahead."""
    here = rebuilt(decision.local_image.labels) if decision.local_image else 0
    return str(max(int(time.time()), 1 + max(here, peers.rebuilt(decision))))


def _pull(run: Run, decision: Decision) -> bool:
    """Let the engine have what the shared registry offers; false if it is not what was promised, or does not come."""
    name = decision.name
    run.events.emit(ImageStarted(name, Action.PULL, decision.reasons, run.expected.pulls.get(name)))
    local_image = fetch.fetched(run, decision)
    if local_image:
        run.events.emit(ImageEnded(name, ImageState.PULLED, size=local_image.size))
    else:
        run.asked.now()  # else a result that does not come would be tried in every run
    return local_image is not None


def _tag(run: Run, decision: Decision) -> bool:
    """Give an image that is here its names; false if it is not here any more, as after another checkout's pruning."""
    began = time.time()
    local_image = decision.local_image
    if local_image is None:
        raise ValueError("retag is decided from an image that the engine holds")
    run.events.emit(ImageStarted(decision.name, Action.RETAG, decision.reasons))
    try:
        results.name_image(run, decision, local_image.id)
    except Gone:
        run.local_images.changed()
        return False
    results.keep(run, decision, local_image, began)
    run.events.emit(ImageEnded(decision.name, ImageState.RETAGGED))
    return True


def _wait_for_run(run: Run, decision: Decision, work: Work, rights: Rights) -> Work:
    """Take the build lock. Of two runs that want the same, the second finds what the first has built."""
    there = rights[Right.BUILD_LOCK].enter_context(build_lock.taken(run, decision))
    if there:
        run.local_images.changed()
        work = work.undecided()
    return work.having(Right.BUILD_LOCK)


def _leased(run: Run, decision: Decision) -> SharedRef | None:
    """What other machines know a build by, where there are any to ask; most builds concern nobody else."""
    if not (decision.builds and run.settings.redis_url and run.settings.cache_registry):
        return None
    asked = run.peers.leases.on and run.peers.results.reads
    return shared_ref_of(decision.inputs, run.local_images.snapshot().platform) if asked else None


def _lease(run: Run, decision: Decision, work: Work, rights: Rights, *, wait: bool) -> Work:
    """Take the lease, or watch it; without ``wait`` only if it is free, else the capacity is given back."""
    if work.leased is None:
        raise ValueError("a lease is taken where other machines are asked")
    if wait and not work.attempt.number:
        _started(run, decision)
    try:
        again = rights[Right.LEASE].enter_context(build_lock.leased(run, work.leased, decision.name, wait=wait))
    except build_lock.Elsewhere:
        rights[Right.CAPACITY].close()
        return replace(work.without(Right.CAPACITY), crowded=False)
    if prune_lock.take_again(run, _waits_for_pruning(run.events, decision.name)):
        run.local_images.changed()
    return (work if again else work.having(Right.LEASE)).undecided()


def _capacity(run: Run, decision: Decision, work: Work, rights: Rights, *, wait: bool) -> Work:
    """Have capacity; without ``wait`` only if there is some left, else the lease is given back."""
    # A lease that Redis has lost keeps nobody waiting.
    wait = wait or work.leased is None or not run.peers.leases.holds(work.leased.turn)
    try:
        rights[Right.CAPACITY].enter_context(capacity.taken(run, decision, wait=wait))
    except capacity.Full:
        rights[Right.LEASE].close()
        return replace(work.without(Right.LEASE), crowded=True)
    return work.having(Right.CAPACITY)


def _build(run: Run, decision: Decision, work: Work, rights: Rights) -> Work:
    """Build it; again, twice at most, where something moved meanwhile."""
    attempt = work.attempt
    externals.refuse_foreign(run.local_images, decision)
    build_image.begin(run)
    if not attempt.number:
        _started(run, decision)
    one = ImageBuild(run, decision, attempt)
    try:
        outcome, local_image = build_image.built(one)
    except InputsChanged as changed:
        name, number = decision.name, attempt.number + 1
        if number > AGAIN:
            run.events.emit(ImageEnded(name, ImageState.INPUTS_CHANGED))
            what = f"{name}: {changed} while it was built, so the result is not taken"
            raise UserError(what, remedy="run it again") from None
        run.events.say(f"{name}: {changed} while it was built, building again ({number} of {AGAIN})")
        for right in reversed(Right):
            rights[right].close()
        again = Attempt(number, attempt.no_cache, changed.result, attempt.rebuilt)
        return Work(attempt=again, rebuild=work.rebuild)
    rights[Right.CAPACITY].close()
    build_image.keep(one, outcome, local_image)
    return replace(work, ended=True)


def _started(run: Run, decision: Decision) -> None:
    seconds = run.expected.builds.get(decision.name)
    run.events.emit(ImageStarted(decision.name, Action.BUILD, decision.reasons, seconds))
