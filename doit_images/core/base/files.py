"""How are small files read and kept? Whole: a reader, or a kill at any moment, sees the old or the new one, never half
of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
from pathlib import Path
from typing import IO

from doit_images.core.base import leftovers
from doit_images.core.base.errors import UserError


def content(path: Path) -> bytes:
    """What a file holds. ``OSError`` where it cannot be read, or is no file: a pipe would keep its reader waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:  # noqa: PTH123  a descriptor
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind):
            number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
            raise OSError(number, "it is a folder" if stat.S_ISDIR(kind) else "it is not a file", str(path))
        return stream.read()


def text(path: Path) -> str:
    """The text of a file, its odd bytes as surrogates. ``UserError`` where it cannot be read."""
    try:
        return content(path).decode(errors="surrogateescape")
    except OSError as error:
        raise UserError(f"this file cannot be read: {error.strerror}", where=str(path)) from None


def log(path: Path, *, append: bool) -> IO[str]:
    """A file opened to be written to, its folder made where that is missing; what is no text is written as it is shown.
    ``OSError`` where it cannot be, or is a pipe that nobody reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    how = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_APPEND if append else os.O_TRUNC)
    descriptor = os.open(path, how, 0o666)
    return open(descriptor, "a" if append else "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123


def write_json(path: Path, content: object) -> None:
    """Write JSON for nobody but this user. Raises ``UserError`` where it cannot be written."""
    write(path, json.dumps(content, indent=1, sort_keys=True), 0o600)


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text; ``mode`` is for a new file. Raises ``UserError`` where it cannot be written."""
    try:
        replace(path, text.encode(), mode)
    except OSError as error:
        raise UserError(f"this file cannot be written: {error.strerror}", where=str(path)) from None


def replace(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file, its folder too where that is missing; ``mode`` is for a new file. ``OSError`` where it cannot
    be written: what was there is then still there."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with leftovers.noted(partial):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
