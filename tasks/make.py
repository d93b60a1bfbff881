"""How does an image become what its inputs say?

    fingerprint ── fresh? ──> nothing
                ── held?  ──> names
                ── else   ──> docker buildx build ── fingerprint again, the same? ──> names, labels, record

The image is named only after its inputs were read a second time: an edit during the build can then never pass
for built (doit itself saves the state of files after the action).
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tasks import board, buildx, failure, history, processes, record
from tasks.errors import Trouble
from tasks.fingerprint import FINGERPRINT, OWN, PARENTS, tag_of
from tasks.plan import Decision, parents_label
from tasks.progress import Progress
from tasks.reasons import differences
from tasks.workspace import Workspace, current

# One run of doit: the builds of its history belong together by this.
_RUN = uuid.uuid4().hex[:12]
_BEGAN = time.time()


def make(name: str) -> Any:
    """The action of one image: do what the plan says, and leave its record. A failure is doit's ``TaskFailed``."""
    from doit.exceptions import TaskFailed

    workspace = current()
    try:
        decision = workspace.decide(name)
        match decision.action:
            case "fresh":
                board.board.ended(name, "fresh")
                _keep_record(workspace, decision, decision, 0.0)
            case "retag":
                _retag(workspace, decision)
            case "build":
                _build(workspace, decision)
            case _:
                raise Trouble("; ".join(decision.reasons))
    except Trouble as trouble:
        return TaskFailed(str(trouble))
    except processes.Stopped:
        board.board.ended(name, "cancelled")
        return TaskFailed("stopped")
    return None


@dataclass(frozen=True)
class _Outcome:
    """What ``docker buildx build`` left: its exit status, the image's id, and all that it said."""

    status: int
    image_id: str
    progress: Progress
    argv: list[str]


def _retag(workspace: Workspace, decision: Decision) -> None:
    began = time.time()
    held = decision.held
    if held is None:
        raise ValueError("retag is decided from an image that the engine holds")
    board.board.started(decision.name, "retag", decision.reasons)
    _name(workspace, decision, held.id)
    seconds = time.time() - began
    _keep_record(workspace, decision, workspace.decide(decision.name), seconds)
    workspace.history.add(_entry(workspace, decision, "done", began, seconds, image_id=held.id, size=held.size))
    board.board.ended(decision.name, "retagged")


def _build(workspace: Workspace, decision: Decision) -> None:
    name, one = decision.name, decision.surveyed
    expected = workspace.expected_seconds
    board.board.plan({other: (its.action, expected.get(other)) for other, its in workspace.decisions().items()})
    board.board.started(name, "build", decision.reasons, expected.get(name))
    began = time.time()
    log = workspace.folder / "logs" / f"{name}.log"
    outcome = _run_buildx(workspace, decision, log)
    seconds = time.time() - began
    steps = history.steps_of(outcome.progress)
    if outcome.status:
        workspace.history.add(_entry(workspace, decision, "failed", began, seconds, steps=steps))
        board.board.ended(name, "failed", progress=outcome.progress)
        text = one.dockerfile_text
        path = Path(one.image.dockerfile) if one.image.dockerfile else None
        tail = outcome.progress.tail
        raise Trouble(failure.explain(name, outcome.progress, tail, path, text, log, outcome.status))
    after = workspace.resurvey(name)
    if after.fingerprint != one.fingerprint:
        workspace.history.add(_entry(workspace, decision, "moved", began, seconds, steps=steps))
        board.board.ended(name, "moved", progress=outcome.progress)
        what = ", ".join(differences(one.ingredients(), after.ingredients())) or "a parent changed"
        raise Trouble(f"{name}: {what} while it was built, so the result is not taken", remedy="run it again")
    _name(workspace, decision, outcome.image_id)
    made = workspace.decide(name)
    size = made.held.size if made.held else 0
    _keep_record(workspace, decision, made, seconds)
    layers = workspace.engine.layers(outcome.image_id)
    entry = _entry(
        workspace, decision, "done", began, seconds, steps=steps, image_id=outcome.image_id, size=size, layers=layers
    )
    workspace.history.add(entry)
    board.board.ended(name, "built", progress=outcome.progress, size=size)


def _run_buildx(workspace: Workspace, decision: Decision, log: Path) -> _Outcome:
    one = decision.surveyed
    log.parent.mkdir(exist_ok=True)
    iidfile = log.parent / f"{one.name}.{os.getpid()}.iid"
    mode = buildx.progress_mode()
    argv = buildx.build_argv(
        one.image,
        parents=one.parent_tags,
        labels=_labels(workspace, decision),
        iidfile=str(iidfile),
        environ=workspace.environ,
        progress=mode,
    )
    progress = Progress(plain=mode == "plain")
    # Provenance would give every build another digest, and so children and registries another parent.
    env = {**workspace.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    inline = one.image.dockerfile_inline
    stdin = None if inline is None else inline.encode()
    try:
        with (
            log.open("w") as lines,
            processes.start(argv, cwd=workspace.project.directory, env=env, stdin=stdin) as process,
        ):
            for data in processes.output(process):
                changes = progress.feed(data)
                lines.writelines(f"{change.line}\n" for change in changes)
                lines.flush()
                board.board.fed(one.name, progress, changes)
            lines.writelines(f"{change.line}\n" for change in progress.finish())
        if processes.stopping():
            raise processes.Stopped
        image_id = iidfile.read_text().strip() if process.returncode == 0 else ""
    finally:
        iidfile.unlink(missing_ok=True)
    return _Outcome(process.returncode, image_id, progress, argv)


def _labels(workspace: Workspace, decision: Decision) -> dict[str, str]:
    one = decision.surveyed
    parents = parents_label(one, workspace.decisions(), workspace.content_of)
    return {OWN: one.own, FINGERPRINT: one.fingerprint, PARENTS: parents}


def _name(workspace: Workspace, decision: Decision, image_id: str) -> None:
    image = decision.surveyed.image
    for ref in (tag_of(image.ref, decision.surveyed.fingerprint), *image.names):
        workspace.engine.tag(image_id, ref)
    workspace.changed()


def _keep_record(workspace: Workspace, decision: Decision, made: Decision, seconds: float) -> None:
    one, held = decision.surveyed, made.held
    parents = {name: one.parent_fingerprints[name] for name in dict.fromkeys(one.parents.values())}
    entry = record.Record(
        image=one.name,
        ref=one.image.ref,
        action=decision.action,
        fingerprint=one.fingerprint,
        ingredients=one.ingredients(),
        parents=parents,
        image_id=held.id if held else "",
        size=held.size if held else 0,
        finished=time.time(),
        seconds=seconds,
    )
    record.write(workspace.folder, entry)


def _entry(
    workspace: Workspace, decision: Decision, status: str, began: float, seconds: float, **more: Any
) -> history.Build:
    return history.Build(
        image=decision.name,
        ref=decision.surveyed.image.ref,
        fingerprint=decision.surveyed.fingerprint,
        action=decision.action,
        status=status,
        reasons=decision.reasons,
        started=began,
        seconds=seconds,
        waited=began - _BEGAN,
        builder="docker",
        commit=_commit(workspace.project.directory),
        workers=board.board.workers,
        run=_RUN,
        parents=tuple(dict.fromkeys(decision.surveyed.parents.values())),
        **more,
    )


@cache
def _commit(directory: Path) -> str:
    argv = ["git", "-C", str(directory), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
