"""What came of running a test once?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from tasks.base import files
from tasks.base.errors import UserError
from tasks.run import Run
from tasks.testing.planned import Planned


class Attempt(NamedTuple):
    """The exit status, when it began (seconds since the epoch), how long it took, what its JUnit file says ("" for
    none), where it failed, what people are told, and whether what it saw was written to meanwhile."""

    status: int
    began: float
    seconds: float
    junit: str = ""
    why: str = ""
    moved: bool = False


def log_of(run: Run, planned: Planned) -> Path:
    """Where what a test says goes."""
    return run.folder / "logs" / f"{planned.test.name}.test.log"


def ended(status: int, began: float, junit: Path | None, why: str = "") -> Attempt:
    """The attempt that has just ended, with the JUnit file that it left, if it did."""
    text = ""
    if junit and junit.is_file():
        try:
            text = files.content(junit).decode(errors="replace")
        except OSError as error:
            raise UserError(f"the JUnit file cannot be read: {error.strerror}", where=str(junit)) from None
    return Attempt(status, began, time.time() - began, text, why)
