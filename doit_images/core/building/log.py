"""Where is the output of a build kept?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from doit_images.core.base import checked_json, files


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
