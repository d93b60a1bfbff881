"""How does an image become what its inputs say?

    fingerprint ── fresh?  ──> nothing
                ── held?   ──> names
                ── shared? ──> docker pull ── labels as they should be? ──> names, record
                ── else    ──> docker buildx build ── fingerprint again, the same? ──> names, record, docker push
                                        ^                        └── no: again, twice at most
                                        └────────────────────────────┘

The image is named only after its inputs were looked at a second time: an edit during the build can then never pass
for built (doit itself saves the state of files after the action), also one that was undone (``stamps``).
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
from tasks.building.events import ImageEnded, ImageNoted, ImagesPlanned, ImageStarted
from tasks.buildkit import builder
from tasks.engine import temporary_tag
from tasks.engine.client import Gone, LocalImage
from tasks.history import store as history
from tasks.planning import checkouts, record
from tasks.planning.plan import ANOTHER, Decision, is_for, made_from
from tasks.planning.reasons import NO_CACHE
from tasks.run import Workspace, current
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

    workspace = current()

    def waits() -> None:
        workspace.events.emit(ImageNoted(name, "waits for cache_prune"))

    try:
        with workspace.kept(early.Busy), lock.shared(builds_lock(workspace), waits):
            _make(workspace, name, no_cache)
    except UserError as trouble:
        return TaskFailed(str(trouble))
    except processes.Stopped:
        workspace.events.emit(ImageEnded(name, "cancelled"))
        return TaskFailed("stopped")
    return None


def make_early(workspace: Workspace, names: Sequence[str]) -> None:
    """The action of an early task: see ``early``; these are the images that have early stages, most urgent first."""
    with lock.shared(builds_lock(workspace), lambda: None):
        _begin(workspace)
        early.build_next(workspace, names)


def builds_lock(workspace: Workspace) -> Path:
    """The lock that all builds with this engine share, of whatever checkout, and that pruning takes for itself."""
    return lock.of_engine(workspace.engine.address, "builds")


def _make(workspace: Workspace, name: str, no_cache: bool = False) -> None:
    """Let an image become what its inputs say; again, twice at most, where something moved while it was built."""
    proves: Result | None = None
    rebuilt = ""
    for number in range(attempt.AGAIN + 1):
        decision = _decided(workspace, name)
        try:
            if no_cache and decision.action != "broken":
                again = replace(decision, action="build", reasons=(NO_CACHE,))
                rebuilt = rebuilt or give.mark(workspace, decision)
                _build(workspace, again, Attempt(number, no_cache, proves, rebuilt))
            else:
                _do(workspace, decision, Attempt(number, proves=proves))
            return
        except InputsChanged as moved:
            what, proves = str(moved), moved.result
        if number < attempt.AGAIN:
            workspace.events.say(f"{name}: {what} while it was built, building again ({number + 1} of {attempt.AGAIN})")
    workspace.events.emit(ImageEnded(name, "moved"))
    raise UserError(f"{name}: {what} while it was built, so the result is not taken", remedy="run it again")


def _decided(workspace: Workspace, name: str) -> Decision:
    """What is to be done about an image now, its bases and its parents being there: doit sees to parents before it
    comes to the image, but they may have been removed or edited since."""
    decision = _looked(workspace, name)
    if decision.inputs.image.pull and externals.pull(workspace, decision):
        decision = _looked(workspace, name)
    while decision.action in ("build", "pull") and externals.bring(workspace, decision):
        decision = _looked(workspace, name)
    for parent in decision.coming:
        with workspace.kept(_Builds).first[parent]:
            if _looked(workspace, parent).stale:
                _make(workspace, parent)
    return _looked(workspace, name) if decision.coming else decision


def _looked(workspace: Workspace, name: str) -> Decision:
    try:
        return workspace.decide(name, refresh=True)
    except UserError:  # an image that the engine listed before may be gone
        workspace.changed()
        return workspace.decide(name, refresh=True)


def _do(workspace: Workspace, decision: Decision, how: Attempt) -> None:
    match decision.action:
        case "fresh":
            workspace.events.emit(ImageEnded(decision.name, "fresh"))
            _keep_record(workspace, decision, decision.held, 0.0)
        case "retag":
            if not _retag(workspace, decision):
                _do(workspace, _looked(workspace, decision.name), how)
        case "pull":
            if not _pull(workspace, decision):
                workspace.asked.now()  # else a result that does not come would be tried in every run
                _do(workspace, workspace.decide(decision.name, refresh=True), how)
        case "build":
            _build_in_turn(workspace, decision, how)
        case _:
            raise UserError("; ".join(decision.reasons))


def _pull(workspace: Workspace, decision: Decision) -> bool:
    """Let the engine have what the shared registry offers; false if it is not what was promised, or does not come."""
    name = decision.name
    workspace.events.emit(ImageStarted(name, "pull", decision.reasons, workspace.expected_pull_seconds.get(name)))
    held = _fetched(workspace, decision)
    if held:
        workspace.events.emit(ImageEnded(name, "pulled", size=held.size))
    return held is not None


def _fetched(workspace: Workspace, decision: Decision) -> LocalImage | None:
    """What the shared registry offers, named and recorded; None if it is not what was promised, or does not come."""
    one, offer = decision.inputs, decision.offer
    wanted = share.wanted_of(one, workspace.snapshot().platform)
    if offer is None or wanted is None:
        raise ValueError("pull is decided from an offer")
    began = time.time()
    ref = workspace.share.pull(wanted, offer, workspace.engine, build_target.layout_of(workspace, one))
    if not ref:
        return None
    try:
        workspace.changed()
        held = workspace.snapshot().get(ref)
        if (
            held is None
            or not made_from(one, held, decision.parents_label)
            or not is_for(one, workspace.facts_of(held).platform, workspace.snapshot().platform)
            or (len(one.platforms) > 1 and not workspace.index_of(one, held))
        ):
            workspace.share.refuse(wanted, "it is not made from what its labels in the registry say")
            return None
        _name(workspace, decision, held.id)
    finally:
        temporary_tag.take_away(workspace.engine, [ref])
        workspace.changed()
    seconds = time.time() - began
    _keep_record(workspace, decision, held, seconds)
    workspace.history.add(_entry(workspace, decision, "done", began, seconds, image_id=held.id, size=held.size))
    return held


def _build_in_turn(workspace: Workspace, decision: Decision, how: Attempt) -> None:
    """Build an image, unless another machine does so at this moment or has just done so: then it is pulled."""
    wanted = share.wanted_of(decision.inputs, workspace.snapshot().platform)
    if wanted is None or not (workspace.coordinator.on and workspace.share.writes):
        _build(workspace, decision, how)
        return
    name = decision.name
    workspace.events.emit(ImageStarted(name, "build", decision.reasons, workspace.expected_seconds.get(name)))
    turn = f"{wanted.fingerprint}:{wanted.platform}"

    def waits(who: str) -> None:
        workspace.events.emit(ImageNoted(name, f"waits for {who}, which builds it"))

    with workspace.coordinator.acquire(turn, waits, processes.stopping):
        if processes.stopping():
            raise processes.Stopped
        workspace.share.forget(wanted)
        decision = workspace.decide(name, refresh=True)
        if decision.action == "pull":
            if _pull(workspace, decision):
                return
            decision = workspace.decide(name, refresh=True)
        if decision.action == "build":
            _build(workspace, decision, how)
        else:
            _do(workspace, decision, how)


def _retag(workspace: Workspace, decision: Decision) -> bool:
    """Give an image that is here its names; false if it is not here any more, as after another checkout's pruning."""
    began = time.time()
    held = decision.held
    if held is None:
        raise ValueError("retag is decided from an image that the engine holds")
    workspace.events.emit(ImageStarted(decision.name, "retag", decision.reasons))
    try:
        _name(workspace, decision, held.id)
    except Gone:
        workspace.changed()
        return False
    seconds = time.time() - began
    _keep_record(workspace, decision, held, seconds)
    workspace.history.add(_entry(workspace, decision, "done", began, seconds, image_id=held.id, size=held.size))
    workspace.events.emit(ImageEnded(decision.name, "retagged"))
    return True


def _build(workspace: Workspace, decision: Decision, how: Attempt) -> None:
    name, one = decision.name, decision.inputs
    expected = workspace.expected_seconds
    externals.refuse_foreign(workspace, decision)
    _begin(workspace)
    if not how.number:
        workspace.events.emit(ImageStarted(name, "build", decision.reasons, expected.get(name)))
    early.wait_for(workspace, name)
    log = workspace.folder / "logs" / f"{name}.log"
    # Unlike any other build's, of this run too: images may share a repository.
    temporary = f"{repository(one.image.ref)}:{temporary_tag.make('building')}"
    try:
        outcome = attempt.build(workspace, decision, how, log, temporary)
        began, seconds, where = outcome.began, outcome.seconds, outcome.where
        if outcome.moved:
            steps = history.steps_of(outcome.progress)
            workspace.history.add(_entry(workspace, decision, "moved", began, seconds, steps=steps))
            raise outcome.moved
        if outcome.status:
            _failed(workspace, decision, outcome, log)
        made = workspace.snapshot().get(temporary)
        image_id = build_target.import_result(workspace, decision, where, outcome.image_id, made)
        _refuse_foreign(workspace, decision, image_id, made)
        _name(workspace, decision, image_id)
        workspace.built(name)
    finally:
        if not builder.dedicated(workspace.settings):  # that one is given no name
            temporary_tag.take_away(workspace.engine, [temporary])
    build_target.clean_up(workspace, decision)
    # A dedicated builder's result is in the engine only now. Any other was: to list hundreds of images takes its time.
    made = made or workspace.snapshot().get(one.image.ref)
    size = made.size if made else 0
    _keep_record(workspace, decision, made, seconds)
    entry = _entry(
        workspace,
        decision,
        "done",
        began,
        seconds,
        steps=history.steps_of(outcome.progress),
        image_id=image_id,
        size=size,
        layers=workspace.engine.layers(image_id),
    )
    workspace.history.add(entry)
    instead = give.give(workspace, decision, image_id, size, seconds, how.rebuilt)
    if instead:
        workspace.events.emit(ImageNoted(name, "another machine shared its result first, which is taken"))
        if pulled := _fetched(workspace, replace(decision, action="pull", reasons=(ANOTHER,), offer=instead)):
            workspace.events.emit(ImageEnded(name, "pulled", size=pulled.size))
            return
    workspace.events.emit(ImageEnded(name, "built", progress=outcome.progress, size=size))


def _begin(workspace: Workspace) -> None:
    """What the first build of a run does, while the others wait."""
    builds = workspace.kept(_Builds)
    with builds.lock:
        if builds.begun:
            return
        builds.begun = True
        decisions = workspace.decisions()
        expected = workspace.forecast(decisions)
        actions = {name: (one.action, expected.get(name)) for name, one in decisions.items()}
        workspace.events.emit(ImagesPlanned(actions))
        externals.introduce(workspace, decisions)


def _failed(workspace: Workspace, decision: Decision, outcome: Outcome, log: Path) -> NoReturn:
    from tasks.buildkit import failure  # most builds do not fail

    name, one, progress = decision.name, decision.inputs, outcome.progress
    steps = history.steps_of(progress)
    workspace.history.add(_entry(workspace, decision, "failed", outcome.began, outcome.seconds, steps=steps))
    workspace.events.emit(ImageEnded(name, "failed", progress=progress))
    path = Path(one.image.dockerfile) if one.image.dockerfile else None
    raise UserError(failure.explain(name, progress, progress.tail, path, one.dockerfile_text, log, outcome.status))


def _refuse_foreign(workspace: Workspace, decision: Decision, image_id: str, made: LocalImage | None) -> None:
    """``UserError`` where what was built is of another platform than was asked for."""
    platform = (workspace.facts_of(made) if made else workspace.facts.get(image_id, fixed=False)).platform
    if not is_for(decision.inputs, platform, workspace.snapshot().platform):
        raise UserError(
            f"{decision.name}: {platform} was built, and {', '.join(decision.inputs.platforms)} is wanted",
            remedy="`docker buildx inspect` lists the platforms of the builder",
        )


def _name(workspace: Workspace, decision: Decision, image_id: str) -> None:
    image = decision.inputs.image
    for ref in (tag_of(image.ref, decision.inputs.fingerprint), *image.names):
        workspace.engine.tag(image_id, ref)
    workspace.changed()


def _keep_record(workspace: Workspace, decision: Decision, held: LocalImage | None, seconds: float) -> None:
    one = decision.inputs
    parents = {name: one.parent_fingerprints[name] for name in dict.fromkeys(one.parents.values())}
    entry = record.Record(
        image=one.name,
        ref=one.image.ref,
        action=decision.action,
        fingerprint=one.fingerprint,
        build_inputs=one.build_inputs(),
        parents=parents,
        image_id=held.id if held else "",
        size=held.size if held else 0,
        finished=time.time(),
        seconds=seconds,
    )
    record.write(workspace.folder, entry)
    checkouts.register(workspace.folder)


def _entry(
    workspace: Workspace, decision: Decision, status: str, began: float, seconds: float, **more: Any
) -> history.Build:
    return history.Build(
        image=decision.name,
        ref=decision.inputs.image.ref,
        fingerprint=decision.inputs.fingerprint,
        action=decision.action,
        status=status,
        reasons=decision.reasons,
        started=began,
        seconds=seconds,
        waited=began - workspace.began,
        builder=builder.name(workspace.settings),
        commit=_commit(workspace.project.directory),
        workers=workspace.workers,
        run=workspace.id,
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
