"""One attempt at building an image: what does BuildKit get, and did what it was made from stay what it was?

An attempt whose inputs changed is of neither state, so its result is not taken; it is made again from what is there
then. Most such changes are an edit, once. What is different are folders in which something hidden comes and goes all
the time, such as a log: their times change in every attempt. There a second attempt that comes out as the very same
image proves the first one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import printable
from doit_images.core.base.references import repository
from doit_images.core.building import build_target, log
from doit_images.core.building.build_target import BuildTarget
from doit_images.core.building.context import as_built, changes_since, sending
from doit_images.core.building.events import ImageNoted, StepsChanged
from doit_images.core.building.parents import Vanished, pinned
from doit_images.core.buildkit import buildx, by_bake
from doit_images.core.buildkit.progress import Progress
from doit_images.core.compose.image import Image
from doit_images.core.engine import plugins, temporary_tag
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, PARENTS, REBUILT
from doit_images.core.inputs import stamps
from doit_images.core.inputs.stamps import Changes
from doit_images.core.planning.plan import Decision
from doit_images.core.planning.reasons import differences
from doit_images.core.run import Run

AGAIN = 2
"""How often an image is built again because its inputs changed meanwhile."""
_SHOWN = 3


@dataclass(frozen=True)
class BuiltImage:
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
    proves: BuiltImage | None = None
    rebuilt: str = ""

    def cached(self, decision: Decision) -> bool:
        """Whether the builder's cache is used: only with it an attempt can come out as the one before it."""
        return self.proves is not None or not (self.no_cache or decision.inputs.image.no_cache)

    def image(self, image: Image) -> Image:
        """The image as it is built in this attempt."""
        return replace(image, no_cache_filter=()) if self.proves else image


class InputsChanged(Exception):
    """What changed while an image was built, in words; ``result`` is the attempt's where a second one can prove it."""

    def __init__(self, what: str, result: BuiltImage | None = None) -> None:
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
    target: BuildTarget
    changed: InputsChanged | None


class ImageBuild:
    """One attempt at building an image, as it was decided: in this run, under a temporary tag and with our labels, its
    output into the file ``log``."""

    def __init__(self, run: Run, decision: Decision, attempt: Attempt) -> None:
        self.run, self.decision, self.attempt = run, decision, attempt
        self.name, self.inputs = decision.name, decision.inputs
        self.late = False
        """Whether it was stopped because its time was over."""
        self.log = run.folder / "logs" / f"{self.name}.log"
        # Unlike any other build's, of this run too: images may share a repository.
        self.tag = f"{repository(self.inputs.image.ref)}:{temporary_tag.make('building')}"
        # All of them always: an image inherits those of its parent.
        self.labels = {
            INPUT_DIGEST: self.inputs.input_digest,
            FINGERPRINT: self.inputs.fingerprint,
            PARENTS: decision.parents_label,
            REBUILT: attempt.rebuilt,
        }

    def build(self) -> Outcome:
        """Build the image, and look whether its inputs changed meanwhile. Raises ``UserError``, ``InputsChanged``
        before it begins, and ``Stopped`` if the run is."""
        run, decision, attempt, began = self.run, self.decision, self.attempt, time.time()
        cached = attempt.cached(decision)
        try:
            with (
                pinned(run.engine, run.local_images, self.inputs, registry_only=run.settings.registry_only) as pins,
                sending(self.inputs.index, run.common),
            ):
                target = build_target.choose(run, self.inputs, pins.contexts, no_cache=attempt.no_cache, cached=cached)
                before, tagged = stamps.look(self.inputs.parts), self._tagged()
                progress = Progress(pins.shown)
                status, image_id = self._buildx(target, progress)
                seconds = time.time() - began
                changes = changes_since(self.inputs.index, before)
                lost = pins.lost(run.local_images)
        except Vanished as parent:
            raise InputsChanged(str(parent)) from None
        if self.late:
            return Outcome(status, "", progress, began, seconds, target, None)
        changed = InputsChanged(str(Vanished(lost))) if lost else self._changed(changes, tagged, image_id)
        if status and changed and not lost and (changed.result or attempt.number == AGAIN):
            changed = None  # that it failed says more
        return Outcome(status, image_id, progress, began, seconds, target, changed)

    def _buildx(self, target: BuildTarget, progress: Progress) -> tuple[int, str]:
        """Run ``docker buildx build``, for platforms that are built apart one after the other; its exit status, and the
        id of the image, "" for none."""
        run, status, ids = self.run, 0, dict[str, str]()
        limit = run.settings.build_timeout
        until = time.monotonic() + limit if limit else None
        with leftovers.folder("build-") as folder, log.opened(self.log) as lines:
            image = self.attempt.image(as_built(self.inputs, folder, run.common))
            for platform, apart in (target.apart or {"": build_target.Apart()}).items():
                if platform:
                    run.events.emit(ImageNoted(self.name, f"building for {platform}"))
                iidfile, metadata = folder / "id", folder / "metadata.json"
                told = ("--metadata-file", str(metadata)) if target.pushed else ()
                argv = buildx.build_argv(
                    replace(image, platforms=(platform,)) if platform else image,
                    parents=target.parents,
                    labels=self.labels,
                    tag="" if run.settings.dedicated_builder else self.tag,
                    iidfile=str(iidfile),
                    environ=run.build_environ,
                    extra=(*target.extra, *apart.extra, *told),
                )
                text = None if image.dockerfile_inline is None else image.dockerfile_inline.encode()
                argv, stdin = by_bake.fitting(argv, text, run.build_environ, run.project.directory)
                try:
                    status = self._follow(argv, stdin, progress, lines, until)
                except commands.TimedOut:
                    self.late, status = True, 1
                if status:
                    break
                # The id is that of the configuration, or of an index; a registry wants the digest of the manifest.
                ids[platform] = (
                    by_bake.digests(metadata.read_text())["containerimage.digest"]
                    if target.pushed
                    else by_bake.image_id(iidfile.read_text())
                )
            lines.write(change.line for change in progress.finish())
        if status and not progress.steps:
            buildx.require()
        return status, "" if status else build_target.one_id(run.peers, self.inputs, target, ids)

    def _follow(
        self,
        argv: Sequence[str],
        stdin: bytes | IO[bytes] | None,
        progress: Progress,
        lines: log.Log,
        until: float | None,
    ) -> int:
        run, env = self.run, self.run.build_environ
        seconds, silence = None if until is None else max(until - time.monotonic(), 0.001), log.Silence()
        directory, argv = run.project.directory, plugins.direct(argv, env)
        with commands.start(argv, cwd=directory, env=env, stdin=stdin, seconds=seconds) as process:
            for data in process.output(log.LOOK_SECONDS):
                if not data:
                    self._tell(silence.grown(), progress)
                    continue
                silence.broken()
                changes = progress.feed(data)
                lines.write(change.line for change in changes)
                run.events.emit(StepsChanged(self.name, progress, changes))
        return process.returncode

    def _tell(self, silent: str, progress: Progress) -> None:
        if silent:
            step = progress.current()
            self.run.events.emit(ImageNoted(self.name, f"{silent} from {step.label}" if step else silent))

    def _changed(self, changes: Changes, tagged: Mapping[str, str], image_id: str) -> InputsChanged | None:
        """What this attempt was not made from any more at its end, if anything; of an engine that was asked again."""
        inputs, decision, attempt = self.inputs, self.decision, self.attempt
        result = BuiltImage(inputs.fingerprint, decision.parents_label, image_id)
        after = self.run.planner.decide_again(self.name)
        if (after.inputs.fingerprint, after.parents_label) != (inputs.fingerprint, decision.parents_label):
            what = ", ".join(differences(inputs.build_inputs(), after.inputs.build_inputs()))
            lost = after.coming if after.inputs.parent_fingerprints == inputs.parent_fingerprints else ()
            return InputsChanged(what or (f"its parent `{lost[0]}` was removed" if lost else "a parent changed"))
        if changes.files:
            was = "was" if len(changes.files) == 1 else "were"
            return InputsChanged(f"{_named(inputs.directory, changes.files)} {was} written to or replaced")
        if attempt.proves == result:
            return None
        if refs := [ref for ref, when in self._tagged().items() if when != tagged.get(ref)]:
            # Perhaps its own again, after another had it.
            return InputsChanged(f"its base `{refs[0]}` was given a name", result)
        if changes.folders:
            return InputsChanged(f"something came or went in {_named(inputs.directory, changes.folders)}", result)
        if attempt.proves and (attempt.no_cache or inputs.image.no_cache or inputs.image.no_cache_filter):
            return InputsChanged("what it copies changed")  # it comes from a cache, and is not what was made without
        return None

    def _tagged(self) -> dict[str, str]:
        """When each base was last given its name in the engine."""
        run, read_for = self.run, self.inputs.read_for
        found = (run.local_images.base(ref, one) for ref, some in read_for.items() if "@" not in ref for one in some)
        return {name: run.engine.tagged(name) for name, _ in filter(None, found)}


def _named(directory: Path, paths: Sequence[str]) -> str:
    names = [printable(f"`{os.path.relpath(path, directory)}`") for path in paths[:_SHOWN]]
    more = [f"{len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else []
    return ", ".join([*names, *more])
