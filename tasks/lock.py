"""Who else is doing this right now?

A lock on a file, which the kernel gives back when its holder ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock of this file for the block. While another holds it, say ``waiting`` once and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as descriptor:
        if not _try(descriptor):
            if waiting:
                print(waiting, file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of this file together with others that share it; ``held`` and ``taken`` wait for all of them, and
    it waits for those, calling ``waiting`` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock of this file for the block: false if another does. Never waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as descriptor:
        yield _try(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    # Not inherited: a command that outlives us must not go on holding it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
