"""Where is the output of a build kept, and when is its silence worth a word?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from doit_images.core.base import checked_json, files

LOOK_SECONDS = 5.0
"""How often it is worth looking for it."""
_MINUTES = (1, 2, 5, 10, 20, 30)  # and each hour


class Log:
    """The log of one build, begun again. One that cannot be written is told, and fails no build."""

    def __init__(self, path: Path, stream: IO[str] | None) -> None:
        self._path = path
        self._stream = stream

    def write(self, lines: Iterable[str]) -> None:
        """Add these lines, so that a reader who follows the file sees them at once."""
        if self._stream is None:
            return
        try:
            self._stream.writelines(f"{line}\n" for line in lines)
            self._stream.flush()
        except OSError as error:
            checked_json.unwritten(self._path, error)
            self._stream = None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Log]:
    """The log in this file, for the block."""
    try:
        stream = files.log(path, append=False)
    except OSError as error:
        checked_json.unwritten(path, error)
        yield Log(path, None)
        return
    try:
        yield Log(path, stream)
    finally:
        with contextlib.suppress(OSError):  # what did not fit is told
            stream.close()


class Silence:
    """The time since a build last said something; each of some lengths is told once."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.broken()

    def broken(self) -> None:
        """It said something."""
        self._since = self._now()
        self._told = 0

    def grown(self) -> str:
        """In words, if it has become longer than what was told last; else "".

        >>> clock = iter([0, 59, 61, 90, 130, 7300])
        >>> silence = Silence(lambda: next(clock))
        >>> [silence.grown() for _ in range(5)]
        ['', 'no output for a minute', '', 'no output for 2 minutes', 'no output for 120 minutes']
        """
        minutes = int((self._now() - self._since) // 60)
        reached = minutes // 60 * 60 or max((mark for mark in _MINUTES if mark <= minutes), default=0)
        if reached <= self._told:
            return ""
        self._told = reached
        return f"no output for {reached} minutes" if reached > 1 else "no output for a minute"
