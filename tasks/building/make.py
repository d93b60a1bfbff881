"""How does an image become what its inputs say?

    fingerprint ── fresh?  ──> nothing
                ── held?   ──> names
                ── shared? ──> docker pull ── labels as they should be? ──> names, record
                ── else    ──> docker buildx build ── fingerprint again, the same? ──> names, record, docker push
                                        ^                        └── no: again, twice at most
                                        └────────────────────────────┘

The image is named only after its inputs were looked at a second time, their contents and their times: an edit during
the build is seen, also one that was undone (``stamps`` says where the times tell; doit itself saves the state of files
after the action). What only BuildKit reads, a remote context or an ``ADD`` of a URL, is not looked at.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tasks.base import lock, processes
from tasks.base.errors import UserError
from tasks.base.references import repository, tag_of
from tasks.building import attempt, build_target, early, externals, give
from tasks.building.attempt import Attempt, InputsChanged, Outcome, Result
from tasks.building.events import ImageEnded, ImageNoted, ImagesPlanned, ImageStarted, State
from tasks.buildkit import builder
from tasks.engine import temporary_tag
from tasks.engine.client import Gone, LocalImage
from tasks.history import store as history
from tasks.history.store import Status
from tasks.planning import checkouts, record
from tasks.planning.action import Action
from tasks.planning.plan import ANOTHER, Decision, is_for, made_from
from tasks.planning.reasons import NO_CACHE
from tasks.run import Run, current
from tasks.sharing import share


class _Builds:
    """The builds of one run: whether the first has begun, and which parents that were removed are being made again,
    which children that are built side by side do once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = False
        self.first: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def make(name: str, no_cache: bool = False) -> Any:
    """The action of one image: do what the plan says, and leave its record; ``no_cache``: build it, without any cache.
    A failure is doit's ``TaskFailed``."""
    from doit.exceptions import TaskFailed

    run = current()

    def waits() -> None:
        run.events.emit(ImageNoted(name, "waits for cache_prune"))

    try:
        with run.kept(early.Busy), lock.shared(builds_lock(run), waits):
            _make(run, name, no_cache)
    except UserError as trouble:
        return TaskFailed(str(trouble))
    except processes.Stopped:
        run.events.emit(ImageEnded(name, State.CANCELLED))
        return TaskFailed("stopped")
    return None


def make_early(run: Run, names: Sequence[str]) -> None:
    """The action of an early task: see ``early``; these are the images that have early stages, most urgent first."""
    with lock.shared(builds_lock(run), lambda: None):
        _begin(run)
        early.build_next(run, names)


def builds_lock(run: Run) -> Path:
    """The lock that all builds with this engine share, of whatever checkout, and that pruning takes for itself."""
    return lock.of_engine(run.engine.address, "builds")


def _make(run: Run, name: str, no_cache: bool = False) -> None:
    """Let an image become what its inputs say; again, twice at most, where something moved while it was built."""
    proves: Result | None = None
    rebuilt = ""
    for number in range(attempt.AGAIN + 1):
        decision = _decided(run, name)
        try:
            if no_cache and decision.action != Action.BROKEN:
                again = replace(decision, action=Action.BUILD, reasons=(NO_CACHE,))
                rebuilt = rebuilt or give.mark(run, decision)
                _build(run, again, Attempt(number, no_cache, proves, rebuilt))
            else:
                _do(run, decision, Attempt(number, proves=proves))
            return
        except InputsChanged as moved:
            what, proves = str(moved), moved.result
        if number < attempt.AGAIN:
            run.events.say(f"{name}: {what} while it was built, building again ({number + 1} of {attempt.AGAIN})")
    run.events.emit(ImageEnded(name, State.INPUTS_CHANGED))
    raise UserError(f"{name}: {what} while it was built, so the result is not taken", remedy="run it again")


def _decided(run: Run, name: str) -> Decision:
    """What is to be done about an image now, its bases and its parents being there: doit sees to parents before it
    comes to the image, but they may have been removed or edited since."""
    decision = _looked(run, name)
    if decision.inputs.image.pull and externals.pull(run, decision):
        decision = _looked(run, name)
    while decision.action in (Action.BUILD, Action.PULL) and externals.bring(run, decision):
        decision = _looked(run, name)
    for parent in decision.coming:
        with run.kept(_Builds).first[parent]:
            if _looked(run, parent).stale:
                _make(run, parent)
    return _looked(run, name) if decision.coming else decision


def _looked(run: Run, name: str) -> Decision:
    try:
        return run.decide(name, refresh=True)
    except UserError:  # an image that the engine listed before may be gone
        run.changed()
        return run.decide(name, refresh=True)


def _do(run: Run, decision: Decision, how: Attempt) -> None:
    match decision.action:
        case Action.FRESH:
            run.events.emit(ImageEnded(decision.name, State.FRESH))
            _keep_record(run, decision, decision.local_image, 0.0)
        case Action.RETAG:
            if not _retag(run, decision):
                _do(run, _looked(run, decision.name), how)
        case Action.PULL:
            if not _pull(run, decision):
                run.asked.now()  # else a result that does not come would be tried in every run
                _do(run, run.decide(decision.name, refresh=True), how)
        case Action.BUILD:
            _build_in_turn(run, decision, how)
        case _:
            raise UserError("; ".join(decision.reasons))


def _pull(run: Run, decision: Decision) -> bool:
    """Let the engine have what the shared registry offers; false if it is not what was promised, or does not come."""
    name = decision.name
    run.events.emit(ImageStarted(name, Action.PULL, decision.reasons, run.expected_pull_seconds.get(name)))
    local_image = _fetched(run, decision)
    if local_image:
        run.events.emit(ImageEnded(name, State.PULLED, size=local_image.size))
    return local_image is not None


def _fetched(run: Run, decision: Decision) -> LocalImage | None:
    """What the shared registry offers, named and recorded; None if it is not what was promised, or does not come."""
    one, offer = decision.inputs, decision.offer
    wanted = share.wanted_of(one, run.snapshot().platform)
    if offer is None or wanted is None:
        raise ValueError("pull is decided from an offer")
    began = time.time()
    ref = run.share.pull(wanted, offer, run.engine, build_target.layout_of(run, one))
    if not ref:
        return None
    try:
        run.changed()
        local_image = run.snapshot().get(ref)
        if (
            local_image is None
            or not made_from(one, local_image, decision.parents_label)
            or not is_for(one, run.facts_of(local_image).platform, run.snapshot().platform)
            or (len(one.platforms) > 1 and not run.index_of(one, local_image))
        ):
            run.share.refuse(wanted, "it is not made from what its labels in the registry say")
            return None
        _name(run, decision, local_image.id)
    finally:
        temporary_tag.take_away(run.engine, [ref])
        run.changed()
    seconds = time.time() - began
    _keep_record(run, decision, local_image, seconds)
    run.history.add(_entry(run, decision, Status.DONE, began, seconds, image_id=local_image.id, size=local_image.size))
    return local_image


def _build_in_turn(run: Run, decision: Decision, how: Attempt) -> None:
    """Build an image, unless another machine does so at this moment or has just done so: then it is pulled."""
    wanted = share.wanted_of(decision.inputs, run.snapshot().platform)
    if wanted is None or not (run.coordinator.on and run.share.writes):
        _build(run, decision, how)
        return
    name = decision.name
    run.events.emit(ImageStarted(name, Action.BUILD, decision.reasons, run.expected_seconds.get(name)))
    turn = f"{wanted.fingerprint}:{wanted.platform}"

    def waits(who: str) -> None:
        run.events.emit(ImageNoted(name, f"waits for {who}, which builds it"))

    with run.coordinator.acquire(turn, waits, processes.stopping):
        if processes.stopping():
            raise processes.Stopped
        run.share.forget(wanted)
        decision = run.decide(name, refresh=True)
        if decision.action == Action.PULL:
            if _pull(run, decision):
                return
            decision = run.decide(name, refresh=True)
        if decision.action == Action.BUILD:
            _build(run, decision, how)
        else:
            _do(run, decision, how)


def _retag(run: Run, decision: Decision) -> bool:
    """Give an image that is here its names; false if it is not here any more, as after another checkout's pruning."""
    began = time.time()
    local_image = decision.local_image
    if local_image is None:
        raise ValueError("retag is decided from an image that the engine holds")
    run.events.emit(ImageStarted(decision.name, Action.RETAG, decision.reasons))
    try:
        _name(run, decision, local_image.id)
    except Gone:
        run.changed()
        return False
    seconds = time.time() - began
    _keep_record(run, decision, local_image, seconds)
    run.history.add(_entry(run, decision, Status.DONE, began, seconds, image_id=local_image.id, size=local_image.size))
    run.events.emit(ImageEnded(decision.name, State.RETAGGED))
    return True


def _build(run: Run, decision: Decision, how: Attempt) -> None:
    name, one = decision.name, decision.inputs
    expected = run.expected_seconds
    externals.refuse_foreign(run, decision)
    _begin(run)
    if not how.number:
        run.events.emit(ImageStarted(name, Action.BUILD, decision.reasons, expected.get(name)))
    early.wait_for(run, name)
    log = run.folder / "logs" / f"{name}.log"
    # Unlike any other build's, of this run too: images may share a repository.
    temporary = f"{repository(one.image.ref)}:{temporary_tag.make('building')}"
    try:
        outcome = attempt.build(run, decision, how, log, temporary)
        began, seconds, where = outcome.began, outcome.seconds, outcome.where
        if outcome.moved:
            steps = history.steps_of(outcome.progress)
            run.history.add(_entry(run, decision, Status.INPUTS_CHANGED, began, seconds, steps=steps))
            raise outcome.moved
        if outcome.status:
            _failed(run, decision, outcome, log)
        made = run.snapshot().get(temporary)
        image_id = build_target.import_result(run, decision, where, outcome.image_id, made)
        _refuse_foreign(run, decision, image_id, made)
        _name(run, decision, image_id)
        run.built(name)
    finally:
        if not run.settings.dedicated_builder:  # that one is given no name
            temporary_tag.take_away(run.engine, [temporary])
    build_target.clean_up(run, decision)
    # A dedicated builder's result is in the engine only now. Any other was: to list hundreds of images takes its time.
    made = made or run.snapshot().get(one.image.ref)
    size = made.size if made else 0
    _keep_record(run, decision, made, seconds)
    entry = _entry(
        run,
        decision,
        Status.DONE,
        began,
        seconds,
        steps=history.steps_of(outcome.progress),
        image_id=image_id,
        size=size,
        layers=run.engine.layers(image_id),
    )
    run.history.add(entry)
    instead = give.give(run, decision, image_id, size, seconds, how.rebuilt)
    if instead:
        run.events.emit(ImageNoted(name, "another machine shared its result first, which is taken"))
        if pulled := _fetched(run, replace(decision, action=Action.PULL, reasons=(ANOTHER,), offer=instead)):
            run.events.emit(ImageEnded(name, State.PULLED, size=pulled.size))
            return
    run.events.emit(ImageEnded(name, State.BUILT, progress=outcome.progress, size=size))


def _begin(run: Run) -> None:
    """What the first build of a run does, while the others wait."""
    builds = run.kept(_Builds)
    with builds.lock:
        if builds.begun:
            return
        builds.begun = True
        decisions = run.decisions()
        expected = run.forecast(decisions)
        actions = {name: (one.action, expected.get(name)) for name, one in decisions.items()}
        run.events.emit(ImagesPlanned(actions))
        externals.introduce(run, decisions)


def _failed(run: Run, decision: Decision, outcome: Outcome, log: Path) -> NoReturn:
    from tasks.buildkit import failure  # most builds do not fail

    name, one, progress = decision.name, decision.inputs, outcome.progress
    steps = history.steps_of(progress)
    run.history.add(_entry(run, decision, Status.FAILED, outcome.began, outcome.seconds, steps=steps))
    run.events.emit(ImageEnded(name, State.FAILED, progress=progress))
    path = Path(one.image.dockerfile) if one.image.dockerfile else None
    raise UserError(failure.explain(name, progress, progress.tail, path, one.dockerfile_text, log, outcome.status))


def _refuse_foreign(run: Run, decision: Decision, image_id: str, made: LocalImage | None) -> None:
    """``UserError`` where what was built is of another platform than was asked for."""
    platform = (run.facts_of(made) if made else run.facts.get(image_id, fixed=False)).platform
    if not is_for(decision.inputs, platform, run.snapshot().platform):
        raise UserError(
            f"{decision.name}: {platform} was built, and {', '.join(decision.inputs.platforms)} is wanted",
            remedy="`docker buildx inspect` lists the platforms of the builder",
        )


def _name(run: Run, decision: Decision, image_id: str) -> None:
    image = decision.inputs.image
    for ref in (tag_of(image.ref, decision.inputs.fingerprint), *image.names):
        run.engine.tag(image_id, ref)
    run.changed()


def _keep_record(run: Run, decision: Decision, local_image: LocalImage | None, seconds: float) -> None:
    one = decision.inputs
    parents = {name: one.parent_fingerprints[name] for name in dict.fromkeys(one.parents.values())}
    entry = record.Record(
        image=one.name,
        ref=one.image.ref,
        action=decision.action,
        fingerprint=one.fingerprint,
        build_inputs=one.build_inputs(),
        parents=parents,
        image_id=local_image.id if local_image else "",
        size=local_image.size if local_image else 0,
        finished=time.time(),
        seconds=seconds,
    )
    record.write(run.folder, entry)
    checkouts.register(run.folder)


def _entry(run: Run, decision: Decision, status: Status, began: float, seconds: float, **more: Any) -> history.Build:
    return history.Build(
        image=decision.name,
        ref=decision.inputs.image.ref,
        fingerprint=decision.inputs.fingerprint,
        action=decision.action,
        status=status,
        reasons=decision.reasons,
        started=began,
        seconds=seconds,
        waited=began - run.began,
        builder=builder.name(run.settings),
        commit=_commit(run.project.directory),
        workers=run.workers,
        run=run.id,
        parents=tuple(dict.fromkeys(decision.inputs.parents.values())),
        **more,
    )


@cache
def _commit(directory: Path) -> str:
    argv = ["git", "-C", str(directory), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
