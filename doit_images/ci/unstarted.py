"""What is in an image? Its files are those of a container that is made of it and never started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from doit_images.core.base import commands


@contextlib.contextmanager
def container(image_id: str) -> Iterator[str]:
    """The id of such a container, for a block. ``UserError`` where the engine cannot make one."""
    # An image that names no command needs one to be given; it need not exist.
    argv = ["docker", "create", image_id, "none"]
    made = commands.run(argv).checked(f"{image_id} cannot be looked into").stdout.strip()
    try:
        yield made
    finally:
        commands.run(["docker", "rm", "--force", made], cleanup=True)
