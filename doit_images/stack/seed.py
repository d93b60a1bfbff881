"""How does a stack start with the data of another checkout's stack? ``up --seed-from OTHER``

Each volume that this stack lacks is made with what the other's holds. One that is there already is nobody's to
overwrite. A store keeps the passwords that it was made with, so those of both checkouts have to be the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.stack import copies, every, secrets
from doit_images.stack.checkout import Choice
from doit_images.stack.containers import PROJECT, Containers
from doit_images.stack.images import Kept

_VOLUME = "com.docker.compose.volume"


def seed(engine: Engine, folder: Path, compose: Compose, choice: Choice, images: dict[str, Kept]) -> None:
    """Copy the volumes of another stack to this one, before it is started; ``folder`` is the project's own.
    ``UserError`` where the other has no data, this one has some, or the passwords differ."""
    pairs = _pairs(engine, compose, choice)
    _same_passwords(compose.directory, choice)
    # Also what Compose did not make, such as a restored backup: to make a volume that is there already does nothing.
    there = {name for name, _, _ in _volumes(engine)}
    if taken := sorted(target for _, _, target in pairs if target in there):
        raise UserError(
            f"{compose.project} has data already, in {', '.join(taken)}",
            remedy="doit down --volumes removes it",
        )
    if not images:
        raise UserError("none of the images is here", remedy="doit build")
    image = next(iter(images.values())).id
    running = [one.id for one in Containers(choice.name).look() if one.running]
    with copies.paused(engine, running):
        for key, source, target in pairs:
            with copies.new_volume(engine, target, {PROJECT: compose.project, _VOLUME: key}):
                copies.copy(engine, source, target, image, folder)
            print(f"{target} has what {source} held", file=sys.stderr)


def found(own: Choice, other: str) -> Choice:
    """The stack ``other`` of the same project, by its name or the folder of its checkout. ``UserError`` for none."""
    known = [choice for choice in every.stacks(own) if choice.name != own.name]
    place = os.path.realpath(other)
    for choice in known:
        if choice.name == other or os.path.realpath(choice.directory) == place:
            return choice
    names = ", ".join(f"{choice.name} ({choice.directory})" for choice in known) or "none"
    raise UserError(f"no other checkout has the stack or the folder {other!r}", remedy=f"there is {names}")


def _pairs(engine: Engine, compose: Compose, choice: Choice) -> list[tuple[str, str, str]]:
    """The volumes to copy: what the files call each, the one of the other stack, and the one of this."""
    sources = {key: name for name, project, key in _volumes(engine) if project == choice.name and key}
    declared = compose.config().get("volumes") or {}
    pairs = [(key, sources[key], str(declared[key].get("name") or key)) for key in sorted(sources) if declared.get(key)]
    pairs = [(key, source, target) for key, source, target in pairs if source != target]  # they share it
    if not pairs:
        raise UserError(f"{choice.name} has no data of its own", remedy="doit ps --all")
    return pairs


def _volumes(engine: Engine) -> list[list[str]]:
    """All volumes of the engine: the name of each, its project, and what the files of that call it."""
    form = f'{{{{.Name}}}}\t{{{{.Label "{PROJECT}"}}}}\t{{{{.Label "{_VOLUME}"}}}}'
    done = commands.run(["docker", "volume", "ls", "--format", form], env=leading_to(engine.address))
    lines = done.checked("the volumes cannot be listed").stdout.splitlines()
    return [f"{line}\t\t".split("\t")[:3] for line in lines]


def _same_passwords(directory: Path, choice: Choice) -> None:
    wanted = secrets.needed(directory)
    other = Path(choice.directory)

    def of(folder: Path) -> dict[str, str]:
        return {line.name: line.value for line in secrets.read(folder / secrets.ENV) if line.name in wanted}

    if wanted and of(directory) != of(other):
        raise UserError(
            f"the data can only be read with the passwords of {other / secrets.ENV}, which differ from those here",
            remedy=f"cp {other / secrets.ENV} {directory / secrets.ENV}",
        )
