"""How is a volume copied into another one?

Through two containers that never run, so nothing of any image is needed for it. Who writes into the first is paused
meanwhile: the copy is what a power failure would leave, which every store can read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from doit_images.core.base import commands, leftovers
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.stack import one_container

VOLUME, PAUSED = "volume", "paused"
"""The kinds of what ``leftovers`` keeps: a volume that is not whole yet, a container that is paused."""


def copy(engine: Engine, source: str, target: str, image: str, folder: Path) -> None:
    """Let the volume ``target`` hold what ``source`` holds, owners and times too; ``image`` is any that is here,
    ``folder`` where the data may lie on its way. Raises ``UserError``."""
    env = leading_to(engine.address)
    with (
        one_container.created(engine, "--volume", f"{source}:/data:ro", image, "none") as reader,
        one_container.created(engine, "--volume", f"{target}:/data", image, "none") as writer,
        leftovers.folder("seed-", folder) as way,
    ):
        data = way / "data.tar"
        with data.open("wb") as out:
            argv = ["docker", "cp", f"{reader}:/data/.", "-"]
            commands.run(argv, env=env, stdout=out).checked(f"{source} cannot be read")
        with data.open("rb") as held:
            argv = ["docker", "cp", "--archive", "-", f"{writer}:/data"]
            commands.run(argv, env=env, stdin=held).checked(f"{target} cannot be written")


@contextlib.contextmanager
def new_volume(engine: Engine, name: str, labels: Mapping[str, str]) -> Iterator[None]:
    """A new volume, which the block fills. It is removed if the block fails. Raises ``UserError``."""
    words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    leftovers.made(VOLUME, engine.address, name)
    try:
        argv = ["docker", "volume", "create", *words, name]
        commands.run(argv, env=leading_to(engine.address)).checked(f"the volume {name} cannot be made")
        yield
    except BaseException:
        remove_volume(engine.address, name)
        raise
    finally:
        leftovers.gone(VOLUME, engine.address, name)


@contextlib.contextmanager
def passing_volume(engine: Engine) -> Iterator[str]:
    """For the block: the name of a new volume, which then goes. Raises ``UserError``."""
    name = f"doit-images-once-{os.urandom(6).hex()}"
    with new_volume(engine, name, {}):
        try:
            yield name
        finally:
            remove_volume(engine.address, name)


@contextlib.contextmanager
def paused(engine: Engine, ids: Sequence[str]) -> Iterator[None]:
    """Pause these running containers for the block. Raises ``UserError``."""
    for one in ids:
        leftovers.made(PAUSED, engine.address, one)
    try:
        if ids:
            commands.run(["docker", "pause", *ids], env=leading_to(engine.address)).checked("they cannot be paused")
        yield
    finally:
        for one in ids:
            go_on(engine.address, one)
            leftovers.gone(PAUSED, engine.address, one)


def go_on(address: str, container: str) -> bool:
    """Unpause a container. Returns whether it was paused."""
    argv = ["docker", "unpause", container]
    return commands.run(argv, env=leading_to(address), cleanup=True).status == 0


def remove_volume(address: str, name: str) -> bool:
    """Remove a volume that nothing uses. Returns whether it existed."""
    argv = ["docker", "volume", "rm", name]
    return commands.run(argv, env=leading_to(address), cleanup=True).status == 0
