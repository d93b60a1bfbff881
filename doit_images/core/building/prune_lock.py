"""What keeps pruning from what builds use?

All builds with an engine share a lock, in every checkout. Pruning takes it exclusively. A build that waits for another
machine releases the lock: it uses nothing meanwhile, and the wait may take as long as a build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from doit_images.core.base import lock
from doit_images.core.engine.client import Engine


def path_of(engine: Engine) -> Path:
    """The file of the lock."""
    return lock.of_engine(engine.address, "builds")


class SharedLock:
    """The lock as one block holds it."""

    def __init__(self, engine: Engine) -> None:
        self._path, self._held = path_of(engine), contextlib.ExitStack()
        self.held = False

    def take(self, waits: Callable[[], None]) -> bool:
        """Hold it, together with other builds. While somebody prunes, call ``waits`` once and wait. Returns whether it
        was not held: everything that the engine held before may be gone. ``Stopped`` and ``UserError`` as of
        ``lock.shared``."""
        if self.held:
            return False
        self._held.enter_context(lock.shared(self._path, waits))
        self.held = True
        return True

    def let_go(self) -> None:
        """Hold it no longer, until ``take``."""
        self.held = False
        self._held.close()


@contextlib.contextmanager
def shared(engine: Engine, waits: Callable[[], None]) -> Iterator[SharedLock]:
    """Hold the lock for the block. Raises as ``SharedLock.take``."""
    mine = SharedLock(engine)
    mine.take(waits)
    try:
        yield mine
    finally:
        mine.let_go()
