"""A container that lives only as long as its command, and is removed even if this process is killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to

KIND = "container"
"""The kind of what ``leftovers`` keeps of it: the engine's address and the name follow."""
_PREFIX, _FORMER = "doit-images-once-", "vllm-swarm-once-"  # and until 0.2


@contextlib.contextmanager
def created(engine: Engine, *words: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """For the block: the name of a container that ``docker create`` makes of these words. ``env`` is what that command
    gets beside its own environment, for ``--env NAME``: what others may read holds no value. Raises ``UserError``."""
    with named(engine) as name:
        argv = ["docker", "create", "--name", name, "--pull", "never", *words]
        commands.run(argv, env={**leading_to(engine.address), **(env or {})}).checked("no container can be made")
        yield name


@contextlib.contextmanager
def named(engine: Engine) -> Iterator[str]:
    """For the block: a name for a container, which goes at the end."""
    name = f"{_PREFIX}{os.urandom(6).hex()}"
    leftovers.made(KIND, engine.address, name)
    try:
        yield name
    finally:
        remove(engine.address, name)
        leftovers.gone(KIND, engine.address, name)


def take(engine: Engine, name: str, path: str, file: Path) -> bool:
    """Copy a file out of a container, which need not run. Returns whether the file exists."""
    argv = ["docker", "cp", f"{name}:{path}", str(file)]
    return commands.run(argv, env=leading_to(engine.address)).status == 0 and file.is_file()


def archive(engine: Engine, image_id: str, name: str, path: str) -> bytes | None:
    """What a container of this image, which need not run, has at a path, as a tar archive; None where it has nothing.
    ``UserError`` where it cannot be looked into."""
    done = commands.run(["docker", "cp", f"{name}:{path}", "-"], env=leading_to(engine.address))
    if done.status and "Could not find the file" not in done.stderr:
        raise UserError(f"{image_id} cannot be looked into: {done.why}")
    return None if done.status else done.output


def remove(address: str, name: str) -> bool:
    """Remove a container of this kind with its volumes. Returns whether it existed."""
    if not name.startswith((_PREFIX, _FORMER)):
        return False
    argv = ["docker", "rm", "--force", "--volumes", name]
    done = commands.run(argv, env=leading_to(address), cleanup=True)
    return done.status == 0 and name in done.stdout
