"""How is something built from an image's inputs that does not become the image: a test, the state before a step?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import repository
from doit_images.core.building import build_target, log, parents, prune_lock
from doit_images.core.building.context import as_built, changes_since, sending
from doit_images.core.buildkit import buildx, by_bake, failure
from doit_images.core.buildkit.progress import Progress
from doit_images.core.engine import plugins, temporary_tag
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.inputs import stamps
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run


@contextlib.contextmanager
def image(run: Run, inputs: ImageInputs, text: str, extra: Sequence[str] = (), *, called: str) -> Iterator[str]:
    """For the block: the name of the image that this Dockerfile gives in place of the image's own; what BuildKit says
    goes to a log that is ``called`` so. Raises ``UserError``."""
    inline = None if inputs.image.dockerfile_inline is None else text
    inputs = replace(inputs, dockerfile_text=text, image=replace(inputs.image, dockerfile_inline=inline))
    ref = f"{repository(inputs.image.ref)}:{temporary_tag.make('building')}"
    file = run.folder / "logs" / f"{inputs.name}.{called}.log"
    temporary_tag.note(run.engine, ref)
    try:
        with prune_lock.shared(run.engine, lambda: run.events.say(f"{inputs.name} waits for cache_prune")):
            status, progress, _ = build(run, inputs, ["--tag", ref, "--output", "type=docker", *extra], file)
        if status:
            raise UserError(failure.explain(inputs.image, progress, text, file, status))
        yield ref
    finally:
        temporary_tag.take_away(run.engine, [ref])


def configuration(engine: Engine, ref: str) -> dict[str, Any]:
    """What an image of the engine is set to: user, folder, variables, also author and platform, as ``docker image
    inspect`` tells. Raises ``UserError``."""
    argv = ["docker", "image", "inspect", ref]
    done = commands.run(argv, env=leading_to(engine.address)).checked(f"{ref} cannot be looked at")
    said = json.loads(done.stdout)[0]
    return dict(said["Config"]) | {name: said.get(name) for name in ("Author", "Os", "Architecture", "Variant")}


class Aside(NamedTuple):
    """What came of such a build: the exit status of buildx, all that it said, and whether a file that it reads was
    written to meanwhile."""

    status: int
    progress: Progress
    moved: bool


def build(run: Run, inputs: ImageInputs, extra: Sequence[str], file: Path, hide: Callable[[str], str] = str) -> Aside:
    """Build from these inputs, on the parents that are here, without our labels and without caches of others; ``extra``
    says what comes out. What BuildKit says goes to the log ``file`` through ``hide``. Raises ``UserError``."""
    settings, env = run.settings, run.build_environ
    try:
        with (
            leftovers.folder("aside-") as folder,
            parents.pinned(run.engine, run.local_images, inputs, registry_only=settings.registry_only) as pins,
            sending(inputs.index, run.common),
        ):
            image = as_built(inputs, folder, run.common)
            argv = buildx.build_argv(
                image,
                parents={} if settings.dedicated_builder else pins.contexts,
                labels={},
                iidfile=f"{folder}/id",
                environ=env,
                extra=[*build_target.around(run, inputs), *extra],
            )
            text = None if image.dockerfile_inline is None else image.dockerfile_inline.encode()
            argv, stdin = by_bake.fitting(argv, text, env, run.project.directory)
            before, progress = stamps.look(inputs.parts), Progress(pins.shown)
            with (
                log.opened(file) as lines,
                commands.start(
                    plugins.direct(argv, env),
                    cwd=run.project.directory,
                    env=env,
                    stdin=stdin,
                    seconds=settings.build_timeout or None,
                ) as process,
            ):
                for data in process.output():
                    lines.write(hide(change.line) for change in progress.feed(data))
                lines.write(hide(change.line) for change in progress.finish())
            return Aside(process.returncode, progress, bool(changes_since(inputs.index, before).files))
    except parents.Vanished as parent:
        raise UserError(f"{inputs.name}: {parent}", remedy="run it again") from None
