"""How does an image become what its inputs say?

    fingerprint ── fresh?  ──> nothing
                ── here?   ──> names
                ── shared? ──> docker pull ── labels as they should be? ──> names, record
                ── else    ──> docker buildx build ── fingerprint again, the same? ──> names, record, docker push
                                        ^                        └── no: again, twice at most
                                        └────────────────────────────┘

The image is named only after its inputs were looked at a second time, their contents and their times: an edit during
the build is seen, also one that was undone (``stamps`` says where the times tell; doit itself saves the state of files
after the action). What only BuildKit reads, a remote context or an ``ADD`` of a URL, is not looked at.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from doit_images.core.base import commands, extras
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.base.formatting import seconds_text
from doit_images.core.base.references import tag_of
from doit_images.core.building import build_target, builds_lock, early, externals, results, room, turns
from doit_images.core.building.attempt import AGAIN, Attempt, ImageBuild, InputsChanged, Outcome, Result
from doit_images.core.building.events import ImageEnded, ImageNoted, ImagesPlanned, ImageStarted
from doit_images.core.building.state import State
from doit_images.core.compose import env_files
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Gone, LocalImage
from doit_images.core.history.store import Status, steps_of
from doit_images.core.planning.action import Action
from doit_images.core.planning.plan import ANOTHER, Decision, built_for, is_for, made_from, rebuilt, replaces
from doit_images.core.planning.reasons import NO_CACHE
from doit_images.core.planning.wanted import wanted_of
from doit_images.core.run import Run

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage


class _Builds:
    """The builds of one run: whether the first has begun, and which parents that were removed are being made again,
    which children that are built side by side do once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = False
        self.first: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def make(run: Run, name: str, no_cache: bool = False) -> Any:
    """The action of one image: do what the plan says, and leave its record; ``no_cache``: build it, without any cache.
    A failure is doit's ``TaskFailed``."""
    from doit.exceptions import TaskFailed

    waits = _waits_for_pruning(run, name)
    try:
        with extras.told(), run.kept(early.Busy), builds_lock.shared(run, waits):
            if not no_cache and _left_out(run, name):
                run.events.emit(ImageEnded(name, State.LEFT))
            else:
                _make(run, name, no_cache)
    except UserError as error:
        return TaskFailed(run.parts.names.in_text(str(error)))
    except OSError as error:  # the disk is full, or a folder of ours is not ours any more
        return TaskFailed(f"{name}: {os_reason(error)}")
    except commands.Stopped:
        run.events.emit(ImageEnded(name, State.CANCELLED))
        return TaskFailed("stopped")
    return None


def _waits_for_pruning(run: Run, name: str) -> Callable[[], None]:
    return lambda: run.events.emit(ImageNoted(name, "waits for cache_prune"))


def make_early(run: Run, names: Sequence[str]) -> None:
    """The action of an early task: see ``early``; these are the images that have early stages, most urgent first."""
    with builds_lock.shared(run, lambda: None):
        _begin(run)
        early.build_next(run, names)


def _make(run: Run, name: str, no_cache: bool = False) -> None:
    """Let an image become what its inputs say; again, twice at most, where something moved while it was built."""
    proves: Result | None = None
    mark = ""
    for number in range(AGAIN + 1):
        decision = _decided(run, name)
        try:
            again = no_cache and decision.action != Action.BROKEN
            if again or replaces(decision, run.settings.registry_only):
                mark = mark or _mark(run, decision)
            attempt = Attempt(number, again, proves, mark)
            if again:
                _build(ImageBuild(run, decision._replace(action=Action.BUILD, reasons=(NO_CACHE,)), attempt))
            else:
                _do(run, decision, attempt)
            return
        except InputsChanged as changed:
            what, proves = str(changed), changed.result
        if number < AGAIN:
            run.events.say(f"{name}: {what} while it was built, building again ({number + 1} of {AGAIN})")
    run.events.emit(ImageEnded(name, State.INPUTS_CHANGED))
    raise UserError(f"{name}: {what} while it was built, so the result is not taken", remedy="run it again")


def _mark(run: Run, decision: Decision) -> str:
    """The label of a rebuild on purpose: now, or just after the last such rebuild that is known, whose machine's clock
    may be ahead."""
    here = rebuilt(decision.local_image.labels) if decision.local_image else 0
    return str(max(int(time.time()), 1 + max(here, run.peers.rebuilt(decision))))


def _decided(run: Run, name: str) -> Decision:
    """What is to be done about an image now, its bases and its parents being there: doit sees to parents before it
    comes to the image, but they may have been removed or edited since."""
    decision = _looked(run, name)
    if decision.inputs.image.pull and externals.pull(run, decision):
        decision = _looked(run, name)
    while decision.action == Action.BUILD and externals.bring(run, decision):  # a pull needs none of them
        decision = _looked(run, name)
    for parent in decision.coming:
        with run.kept(_Builds).first[parent]:
            if _looked(run, parent).stale:
                _make(run, parent)
    return _looked(run, name) if decision.coming else decision


def _left_out(run: Run, name: str) -> bool:
    """Whether an image that could be pulled is only there for others to be built on, and of those that were asked for,
    and what they are built on, none is built. Who builds after all, where a pull fails, brings its parents itself."""
    if run.wanted is None or name in run.wanted:
        return False
    decisions = run.decisions()
    if decisions[name].action != Action.PULL:
        return False
    return not any(name in decisions[each].coming for each in built_for(run.wanted, decisions))


def _looked(run: Run, name: str) -> Decision:
    try:
        return run.decide(name, refresh=True)
    except UserError:  # an image that the engine listed before may be gone
        run.changed()
        return run.decide(name, refresh=True)


def _do(run: Run, decision: Decision, which: Attempt) -> None:
    match decision.action:
        case Action.FRESH:
            run.events.emit(ImageEnded(decision.name, State.FRESH))
            results.keep_record(run, decision, decision.local_image, 0.0)
        case Action.RETAG:
            if not _retag(run, decision):
                _do(run, _looked(run, decision.name), which)
        case Action.PULL:
            if not _pull(run, decision):
                run.asked.now()  # else a result that does not come would be tried in every run
                _do(run, _decided(run, decision.name), which)
        case Action.BUILD:
            if not _build_first(run, decision, which):
                _do(run, _looked(run, decision.name), which)
        case _:
            raise UserError("; ".join(decision.reasons))


def _pull(run: Run, decision: Decision) -> bool:
    """Let the engine have what the shared registry offers; false if it is not what was promised, or does not come."""
    name = decision.name
    run.events.emit(ImageStarted(name, Action.PULL, decision.reasons, run.expected.pulls.get(name)))
    local_image = _fetched(run, decision)
    if local_image:
        run.events.emit(ImageEnded(name, State.PULLED, size=local_image.size))
    return local_image is not None


def _fetched(run: Run, decision: Decision) -> LocalImage | None:
    """What the shared registry offers, named and recorded; None if it is not what was promised, or does not come."""
    inputs, offer = decision.inputs, decision.offer
    wanted = wanted_of(inputs, run.snapshot().platform)
    if offer is None or wanted is None:
        raise ValueError("pull is decided from an offer")
    began = time.time()
    ref = run.peers.results.pull(wanted, offer, run.engine, build_target.layout_of(run, inputs))
    if not ref:
        return None
    try:
        run.changed()
        # Another run with this engine that pulled it too took this name away, but only after it gave it its own.
        local_image = run.snapshot().get(ref) or run.snapshot().get(tag_of(inputs.image.ref, inputs.fingerprint))
        if (
            local_image is None
            or not made_from(inputs, local_image, decision.parents_label)
            or not is_for(inputs, run.config_of(local_image).platform, run.snapshot().platform)
            or run.content_of(inputs, local_image) != offer.content
        ):
            run.peers.results.refuse(wanted, "it is not made from what its labels in the registry say")
            return None
        results.name_image(run, decision._replace(local_image=local_image), local_image.id)
    finally:
        temporary_tag.give_back(run.engine, ref)
        run.changed()
    _keep(run, decision, local_image, began)
    return local_image


def _keep(run: Run, decision: Decision, local_image: LocalImage, began: float) -> None:
    """Keep the record and the history of an image that was pulled or only named."""
    seconds = time.time() - began
    results.keep_record(run, decision, local_image, seconds)
    more = {"seconds": seconds, "image_id": local_image.id, "size": local_image.size}
    results.add_to_history(run, decision, Status.DONE, began=began, **more)


def _build_first(run: Run, decision: Decision, which: Attempt) -> bool:
    """Build an image, unless another run on this machine does so at this moment or has just done so: then false, once
    it is there."""
    early.wait_for(run, decision.name)
    with turns.taken(run, decision) as there:
        if there:
            run.changed()
            decision = _looked(run, decision.name)
        if decision.builds:
            _build_in_turn(run, decision, which)
        return decision.builds


def _build_in_turn(run: Run, decision: Decision, which: Attempt) -> None:
    """Build an image, unless another machine does so at this moment or has just done so: then it is pulled. Who waits
    for another machine has no room on this one, and who waits for room no lease."""
    wanted = None
    if run.settings.redis_url and run.settings.cache_registry:  # most builds concern nobody else: nothing is imported
        wanted = wanted_of(decision.inputs, run.snapshot().platform)
    if wanted is None or not (run.peers.leases.on and run.peers.results.writes):
        _build(ImageBuild(run, decision, which))
        return
    name = decision.name
    run.events.emit(ImageStarted(name, Action.BUILD, decision.reasons, run.expected.builds.get(name)))
    while True:
        with turns.leased(run, wanted, name):
            if builds_lock.take_again(run, _waits_for_pruning(run, name)):
                run.changed()
                decision = _decided(run, name)
            else:
                decision = run.decide(name, refresh=True)
            if decision.action == Action.PULL:
                if _pull(run, decision):
                    return
                decision = _decided(run, name)
            if not decision.builds:
                break
            with contextlib.suppress(room.Full):
                at_once = room.taken(run, decision, wait=not run.peers.leases.holds(wanted.turn))
                _build(ImageBuild(run, decision, which), at_once)
                return
        with (
            room.taken(run, decision),
            contextlib.suppress(turns.Elsewhere),
            turns.leased(run, wanted, name, wait=False),
        ):
            decision = run.decide(name, refresh=True)
            if decision.builds:
                _build(ImageBuild(run, decision, which), contextlib.nullcontext())
                return
    _do(run, decision, which)  # with no lease: should it be built after all, that is taken as any other


def _retag(run: Run, decision: Decision) -> bool:
    """Give an image that is here its names; false if it is not here any more, as after another checkout's pruning."""
    began = time.time()
    local_image = decision.local_image
    if local_image is None:
        raise ValueError("retag is decided from an image that the engine holds")
    run.events.emit(ImageStarted(decision.name, Action.RETAG, decision.reasons))
    try:
        results.name_image(run, decision, local_image.id)
    except Gone:
        run.changed()
        return False
    _keep(run, decision, local_image, began)
    run.events.emit(ImageEnded(decision.name, State.RETAGGED))
    return True


def _build(build: ImageBuild, place: AbstractContextManager[None] | None = None) -> None:
    """Build an image, in a ``place`` other than the next one that the machine has room for."""
    run, name, decision = build.run, build.name, build.decision
    externals.refuse_foreign(run, decision)
    _begin(run)
    early.wait_for(run, name)
    with place or room.taken(run, decision):
        if not build.attempt.number:
            run.events.emit(ImageStarted(name, Action.BUILD, decision.reasons, run.expected.builds.get(name)))
        outcome, local_image = _built(build)
    build_target.clean_up(run, decision)
    results.keep_record(run, decision, local_image, outcome.seconds)
    size = local_image.size
    layers = None if run.settings.registry_only else run.engine.layers(local_image.id)
    _add_to_history(build, outcome, Status.DONE, image_id=local_image.id, size=size, layers=layers)
    made = LocalImage(local_image.id, labels=build.labels, size=size, fixed=False)
    if instead := _given(run, decision, made, outcome.seconds):
        run.events.emit(ImageNoted(name, "another machine shared its result first, which is taken"))
        if pulled := _fetched(run, decision._replace(action=Action.PULL, reasons=(ANOTHER,), offer=instead)):
            run.events.emit(ImageEnded(name, State.PULLED, size=pulled.size))
            return
    run.events.emit(ImageEnded(name, State.BUILT, progress=outcome.progress, size=size))


def _given(run: Run, decision: Decision, made: LocalImage, seconds: float) -> SharedImage | None:
    """Share what was built, where there is anybody to share it with; the shared result that is to take its place."""
    if run.settings.registry_only or not (run.settings.cache_registry or run.settings.redis_url):
        return None
    return run.peers.give(decision, made, seconds)


def _built(build: ImageBuild) -> tuple[Outcome, LocalImage]:
    """Build the image and give it its names. ``UserError`` if that fails, ``InputsChanged`` if it does not count."""
    run, decision = build.run, build.decision
    if run.settings.registry_only:
        run.peers.past_engine.check(decision)
        outcome = _counted(build)
        return outcome, run.peers.past_engine.named(build, outcome.image_id, outcome.seconds)
    if not run.settings.dedicated_builder:  # that one is given no name
        temporary_tag.note(run.engine, build.tag)
    try:
        outcome = _counted(build)
        made = run.snapshot().get(build.tag)
        image_id = build_target.import_result(run, decision, outcome.target, outcome.image_id, made)
        _refuse_foreign(run, decision, image_id, made)
        results.name_image(run, decision, image_id)
        run.built(build.name)
    finally:
        if not run.settings.dedicated_builder:
            temporary_tag.take_away(run.engine, [build.tag])
    # A dedicated builder's result is in the engine only now. Any other was: to list hundreds of images takes its time.
    made = made or run.snapshot().get(build.inputs.image.ref) or LocalImage(image_id)
    return outcome, made._replace(id=image_id)


def _counted(build: ImageBuild) -> Outcome:
    """Build the image. ``UserError`` if that fails, ``InputsChanged`` if it does not count."""
    outcome = build.build()
    if outcome.changed:
        _add_to_history(build, outcome, Status.INPUTS_CHANGED)
        raise outcome.changed
    if outcome.status:
        _failed(build, outcome)
    return outcome


def _begin(run: Run) -> None:
    """What the first build of a run does, while the others wait."""
    builds = run.kept(_Builds)
    with builds.lock:
        if builds.begun:
            return
        builds.begun = True
        decisions = run.decisions()
        expected = run.expected.planned(decisions)
        actions = {name: (decision.action, expected.get(name)) for name, decision in decisions.items()}
        run.events.emit(ImagesPlanned(actions))
        built = (decision.inputs.image for decision in decisions.values() if decision.builds)
        for sentence in env_files.unset(built, run.build_environ):
            run.events.say(sentence)
        externals.introduce(run, decisions)


def _failed(build: ImageBuild, outcome: Outcome) -> NoReturn:
    from doit_images.core.buildkit import failure  # most builds do not fail

    inputs, progress = build.inputs, outcome.progress
    _add_to_history(build, outcome, Status.FAILED)
    build.run.events.emit(ImageEnded(build.name, State.FAILED, progress=progress))
    if build.late:
        step = progress.failed() or progress.current()
        during = f", during {step.label}" if step else ""
        limit = seconds_text(build.run.settings.build_timeout)
        raise UserError(
            f"{build.name} was not built in {limit}{during}, so it was stopped; its log is {build.log}",
            remedy="BUILD_TIMEOUT says how long a build may take",
        )
    raise UserError(failure.explain(inputs.image, progress, inputs.dockerfile_text, build.log, outcome.status))


def _add_to_history(build: ImageBuild, outcome: Outcome, status: Status, **more: Any) -> None:
    more |= {"seconds": outcome.seconds, "steps": steps_of(outcome.progress)}
    results.add_to_history(build.run, build.decision, status, began=outcome.began, **more)


def _refuse_foreign(run: Run, decision: Decision, image_id: str, made: LocalImage | None) -> None:
    """``UserError`` where what was built is of another platform than was asked for."""
    platform = (run.config_of(made) if made else run.configs.get(image_id, fixed=False)).platform
    if not is_for(decision.inputs, platform, run.snapshot().platform):
        raise UserError(
            f"{decision.name}: {platform} was built, and {', '.join(decision.inputs.platforms)} is wanted",
            remedy="`docker buildx inspect` lists the platforms of the builder",
        )
