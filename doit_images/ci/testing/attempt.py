"""What came of running a test once?"""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from doit_images.ci.testing.planned import Planned
from doit_images.core.base import files
from doit_images.core.base.errors import UserError

_HELD = 1024 * 1024  # so much of a line is waited for
_OVERLAP = 16 * 1024  # no value of a secret is longer


class Trial(NamedTuple):
    """The exit status, when it began (seconds since the epoch), how long it took, what its JUnit file says ("" for
    none), where it failed, what people are told, and whether what it saw was written to meanwhile."""

    status: int
    began: float
    seconds: float
    junit: str = ""
    why: str = ""
    moved: bool = False


def log_of(folder: Path, planned: Planned) -> Path:
    """Where what a test says goes."""
    return folder / "logs" / f"{planned.test.name}.test.log"


def hidden_lines(pieces: Iterable[bytes], hide: Callable[[str], str]) -> Iterator[str]:
    """What a test says, as texts without the values of secrets, each of whole lines: a value may come in pieces. A line
    too long to be held is let go in parts, of which only a value longer than ``_OVERLAP`` could come through."""
    decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
    held: list[str] = []
    size = 0
    for piece in pieces:
        text = decode(piece)
        whole, line_end, rest = text.rpartition("\n")
        if line_end:
            yield hide(f"{''.join(held)}{whole}\n")
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > _HELD:
            hidden = hide("".join(held))
            yield hidden[:-_OVERLAP]
            held, size = [hidden[-_OVERLAP:]], _OVERLAP
    yield hide("".join(held) + decode(b"", final=True))


def ended(status: int, began: float, junit: tuple[Path, str] | None, why: str = "") -> Trial:
    """The attempt that has just ended, with the JUnit file that it left, if it did: ``junit`` is the folder with what
    it left, and where in there that file should be. Raises ``UserError``."""
    return Trial(status, began, time.time() - began, _left(*junit) if junit else "", why)


def _left(folder: Path, path: str) -> str:
    """The text of a file in what a test left, "" if there is none. A link of its making could name any file here."""
    file = Path(os.path.realpath(folder / path.lstrip("/")))
    if not file.is_relative_to(os.path.realpath(folder)):
        raise UserError("the JUnit file leads to a place outside of what the test left", where=path)
    try:
        return files.content(file).decode(errors="replace") if file.is_file() else ""
    except OSError as error:
        raise UserError(f"the JUnit file cannot be read: {error.strerror}", where=str(file)) from None
