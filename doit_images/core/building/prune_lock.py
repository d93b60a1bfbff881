"""What keeps pruning from what builds use?

All builds with an engine share a lock, in every checkout. Pruning takes it exclusively. A build that waits for another
machine releases the lock: it uses nothing meanwhile, and the wait may take as long as a build.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from doit_images.core.base import lock
from doit_images.core.engine.client import Engine
from doit_images.core.run import Run


class _Held(threading.local):
    """The lock as a thread holds it."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.held = False


def path_of(engine: Engine) -> Path:
    """The file of the lock."""
    return lock.of_engine(engine.address, "builds")


@contextlib.contextmanager
def shared(run: Run, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold it for the block, together with other builds. While somebody prunes, call ``waiting`` once and wait.
    ``Stopped`` and ``UserError`` as of ``lock.shared``."""
    mine = run.kept(_Held)
    with mine.stack:
        _take(run.engine, mine, waiting)
        try:
            yield
        finally:
            mine.held = False


def let_go(run: Run) -> None:
    """Within such a block: hold it no longer, until ``take_again``."""
    mine = run.kept(_Held)
    mine.held = False
    mine.stack.close()


def take_again(run: Run, waiting: Callable[[], None]) -> bool:
    """Hold it again; whether it had been let go, so that everything that the engine held may be gone. Raises as
    ``shared``."""
    mine = run.kept(_Held)
    if mine.held:
        return False
    _take(run.engine, mine, waiting)
    return True


def _take(engine: Engine, mine: _Held, waiting: Callable[[], None]) -> None:
    mine.stack.enter_context(lock.shared(path_of(engine), waiting))
    mine.held = True
