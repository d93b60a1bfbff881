"""Which commands did runs start? Kept in a file that people read, as they can be pasted into a shell."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from doit_images.core.base import files
from doit_images.core.base.errors import UserError

_LONGEST = 1_000_000  # bytes; then it begins again


def keep(log: Path, run: str, line: str) -> None:
    """Add a command to the log; one that cannot be written is done without."""
    with contextlib.suppress(OSError, UserError):
        whole = log.exists() and log.stat().st_size > _LONGEST
        with files.log(log, append=not whole) as stream:
            stream.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} of run {run}\n{line}\n")
