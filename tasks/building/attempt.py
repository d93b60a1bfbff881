"""One attempt at building an image: what does BuildKit get, and did what it was made from stay what it was?

An attempt whose inputs moved is of neither state, so its result is not taken; it is made again from what is there then.
Most that moves is an edit, once. What is different are folders in which something hidden comes and goes all the time,
such as a log: their times move in every attempt. There a second attempt that comes out as the very same image proves
the first one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.base import processes
from tasks.building import build_target, parents, sending
from tasks.building.build_target import BuildTarget
from tasks.building.context import as_built
from tasks.building.events import StepsChanged
from tasks.building.parents import Vanished
from tasks.buildkit import buildx
from tasks.buildkit.progress import Progress
from tasks.compose.project import Image
from tasks.engine import plugins
from tasks.engine.labels import FINGERPRINT, INPUT_DIGEST, PARENTS, REBUILT
from tasks.inputs import stamps
from tasks.inputs.stamps import Stamps
from tasks.planning.plan import Decision
from tasks.planning.reasons import differences
from tasks.run import Run

AGAIN = 2
"""How often an image is built again because something moved."""
_SHOWN = 3


@dataclass(frozen=True)
class Result:
    """What an attempt made: the image's id, of the inputs with this fingerprint on parents with this label."""

    fingerprint: str
    parents_label: str
    image_id: str


@dataclass(frozen=True)
class Attempt:
    """The ``number`` of an attempt, from 0; ``no_cache``: without any cache, as asked; ``proves``: what it has to come
    out as, for the one before it to be taken; ``rebuilt``: the mark of a rebuild on purpose, the same in all attempts,
    "" for any other."""

    number: int = 0
    no_cache: bool = False
    proves: Result | None = None
    rebuilt: str = ""

    def cached(self, decision: Decision) -> bool:
        """Whether the builder's cache is used: only with it an attempt can come out as the one before it."""
        return self.proves is not None or not (self.no_cache or decision.inputs.image.no_cache)

    def image(self, image: Image) -> Image:
        """The image as it is built in this attempt."""
        return replace(image, no_cache_filter=()) if self.proves else image


class InputsChanged(Exception):
    """What moved while an image was built, in words; ``result`` is the attempt's where a second one can prove it."""

    def __init__(self, what: str, result: Result | None = None) -> None:
        super().__init__(what)
        self.result = result


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to: the exit status of ``docker buildx build``, the image's id ("" for none), all that it
    said, when it began (seconds since the epoch), its seconds, where it was built, and why it does not count."""

    status: int
    image_id: str
    progress: Progress
    began: float
    seconds: float
    where: BuildTarget
    moved: InputsChanged | None


def build(run: Run, decision: Decision, attempt: Attempt, log: Path, temporary: str) -> Outcome:
    """Build an image under the name ``temporary``, its output into the file ``log``, and look whether what it was made
    from moved. Raises ``UserError``, ``InputsChanged`` before it begins, and ``Stopped`` if the run is."""
    one, began = decision.inputs, time.time()
    cached = attempt.cached(decision)
    try:
        with parents.pinned(run, decision) as pins, sending.contexts(one.index, run.common):
            where = build_target.choose(run, decision, pins.contexts, no_cache=attempt.no_cache, cached=cached)
            before, tagged = stamps.look(one.parts), _tagged(run, decision)
            status, image_id, progress = _run(run, decision, attempt, where, pins.shown, log, temporary)
            seconds = time.time() - began
            lost = pins.lost(run)
    except Vanished as parent:
        raise InputsChanged(str(parent)) from None
    moved = InputsChanged(str(Vanished(lost))) if lost else _moved(run, decision, before, tagged, attempt, image_id)
    if status and moved and not lost and (moved.result or attempt.number == AGAIN):
        moved = None  # that it failed says more
    return Outcome(status, image_id, progress, began, seconds, where, moved)


def _run(
    run: Run,
    decision: Decision,
    attempt: Attempt,
    where: BuildTarget,
    shown: Mapping[str, str],
    log: Path,
    temporary: str,
) -> tuple[int, str, Progress]:
    one = decision.inputs
    log.parent.mkdir(exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix="build-")
    iidfile = Path(folder.name) / "id"
    image = attempt.image(as_built(one, Path(folder.name), run.common))
    argv = buildx.build_argv(
        image,
        parents=where.parents,
        labels=_labels(decision, attempt),
        tag="" if where.layout else temporary,
        iidfile=str(iidfile),
        environ=run.environ,
        extra=where.extra,
    )
    progress = Progress(shown)
    # Provenance would give every build another digest, and so children and registries another parent.
    env = {**run.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    stdin = None if image.dockerfile_inline is None else image.dockerfile_inline.encode()
    with (
        folder,
        log.open("w") as lines,
        processes.start(plugins.direct(argv, env), cwd=run.project.directory, env=env, stdin=stdin) as process,
    ):
        for data in processes.output(process):
            changes = progress.feed(data)
            lines.writelines(f"{change.line}\n" for change in changes)
            lines.flush()
            run.events.emit(StepsChanged(one.name, progress, changes))
        lines.writelines(f"{change.line}\n" for change in progress.finish())
        process.wait()
        image_id = iidfile.read_text().strip() if process.returncode == 0 else ""
    if processes.stopping():
        raise processes.Stopped
    if process.returncode and not progress.steps:
        buildx.require()
    return process.returncode, image_id, progress


def _labels(decision: Decision, attempt: Attempt) -> dict[str, str]:
    # All of them always: an image inherits those of its parent.
    one = decision.inputs
    return {
        INPUT_DIGEST: one.input_digest,
        FINGERPRINT: one.fingerprint,
        PARENTS: decision.parents_label,
        REBUILT: attempt.rebuilt,
    }


def _moved(
    run: Run,
    decision: Decision,
    before: Stamps,
    tagged: Mapping[str, str],
    attempt: Attempt,
    image_id: str,
) -> InputsChanged | None:
    """What an attempt that made this image was not made from any more at its end, if anything; of an engine that was
    asked anew."""
    one = decision.inputs
    result = Result(one.fingerprint, decision.parents_label, image_id)
    changes = before.moved()
    if one.index and (changes.files or changes.doubtful):
        one.index.renew()
    after = run.decide(one.name, refresh=True)
    if (after.inputs.fingerprint, after.parents_label) != (one.fingerprint, decision.parents_label):
        what = ", ".join(differences(one.build_inputs(), after.inputs.build_inputs()))
        lost = after.coming if after.inputs.parent_fingerprints == one.parent_fingerprints else ()
        return InputsChanged(what or (f"its parent `{lost[0]}` was removed" if lost else "a parent changed"))
    if changes.files:
        was = "was" if len(changes.files) == 1 else "were"
        return InputsChanged(f"{_named(one.directory, changes.files)} {was} written to or replaced")
    if attempt.proves == result:
        return None
    if names := [ref for ref, when in _tagged(run, decision).items() if when != tagged.get(ref)]:
        return InputsChanged(
            f"its base `{names[0]}` was given a name", result
        )  # perhaps its own again, after another had it
    if changes.folders:
        return InputsChanged(f"something came or went in {_named(one.directory, changes.folders)}", result)
    if attempt.proves and (attempt.no_cache or one.image.no_cache or one.image.no_cache_filter):
        return InputsChanged("what it copies moved")  # it comes from a cache, and is not what was made without
    return None


def _tagged(run: Run, decision: Decision) -> dict[str, str]:
    refs = [ref for ref in decision.inputs.read_for if "@" not in ref and run.snapshot().get(ref)]
    return {ref: run.engine.tagged(ref) for ref in refs}


def _named(directory: Path, paths: Sequence[str]) -> str:
    names = [f"`{os.path.relpath(path, directory)}`" for path in paths[:_SHOWN]]
    more = [f"{len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else []
    return ", ".join([*names, *more])
