"""How is JSON kept that may be lost, with a checksum?

What one run remembers for the next is checked when it is read, and decides nothing when it cannot be used: a disk that
is full, a folder that root owns, a bit that fell over, a file of another version. Each of these is told once, counts as
unknown, and fails no run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from doit_images.core.base import files

OWN_FOLDER = ".doit-images"
"""What the folder beside a Compose file is called in which everything lies that these tasks write. Nobody else's has
this name: ``.build`` is SwiftPM's, and images copy from it."""
_NAME = "checksum"
_END = f'\n"{_NAME}": "%s"}}\n'
_LENGTH = len(_END % ("0" * 64))
_REMEDIES = {
    errno.ENOSPC: "`cache_prune` makes room",
    errno.EDQUOT: "`cache_prune` makes room",
    errno.EACCES: "give it back to yourself: sudo chown -R $USER %s",
    errno.EPERM: "give it back to yourself: sudo chown -R $USER %s",
    errno.EROFS: "work in a copy of the checkout that can be written",
}


def recall(path: Path) -> dict[str, Any] | None:
    """What ``remember`` wrote to this file; None if there is nothing, or nothing that can be used."""
    try:
        data = files.content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        tell(f"{path}: this cannot be read, and counts as unknown: {error.strerror}")
        return None
    content, whole = _read(data)
    if not whole:
        damaged(path)
    return content


def flaw(path: Path) -> str:
    """What is wrong with a file that ``remember`` writes, in words; "" where nothing is, where there is none, and where
    it may not be read now."""
    try:
        return "" if _read(files.content(path))[1] else "it is damaged"
    except OSError as error:
        in_its_place = error.errno in (errno.EISDIR, errno.EINVAL, errno.ELOOP)
        return (error.strerror or "it is not a file") if in_its_place else ""


def flaw_of_database(path: Path) -> str:
    """What is wrong with an SQLite file, in words; "" where nothing is, and where it cannot be looked at now."""
    import sqlite3
    from urllib.parse import quote

    if not path.is_file():
        return "it is not a file"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1)) as db:
            return "" if db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",) else "it is damaged"
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return "it is damaged" if is_damage(error) else ""


def remember(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object for nobody but this user, so that ``recall`` can tell whether it is still whole. Where it
    cannot be written, that is told."""
    body = json.dumps(content, indent=1, sort_keys=True).removesuffix("}").rstrip() + ("," if content else "")
    data = body.encode()
    try:
        files.replace(path, data + _end(data), 0o600)
    except OSError as error:
        unwritten(path, error)


def damaged(path: Path) -> None:
    """Tell that a file holds nothing that can be used."""
    tell(f"{path}: this is damaged, and counts as unknown")


def unwritten(path: Path, error: Exception) -> None:
    """Tell that something could not be written: once for a whole ``.doit-images``, where it is the same trouble for
    all. ``error`` is the system's, or SQLite's."""
    number = _number(path, error)
    folder = _own(path) or path.parent
    remedy = _remedy(number, folder)
    more = f" ({remedy})" if remedy else ""
    tell(f"{folder}: what runs remember cannot be written: {os.strerror(number) if number else error}{more}")


def remedy(path: Path, error: Exception) -> str:
    """What to do about something of ours that cannot be written, by the system's error, or SQLite's; "" where nobody
    knows."""
    return _remedy(_number(path, error), folder) if (folder := _own(path)) else ""


def _remedy(number: int, folder: Path) -> str:
    return _REMEDIES.get(number, "").replace("%s", str(folder))


def _own(path: Path) -> Path | None:
    return next((above for above in (path, *path.parents) if above.name == OWN_FOLDER), None)


def _number(path: Path, error: Exception) -> int:
    """The system's number for an error, 0 for none. Where nothing at all can be written, each step fails in another
    way."""
    there = next(above for above in (path, *path.parents) if os.path.exists(above))  # noqa: PTH110  never raises
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return errno.EROFS
    return (error.errno if isinstance(error, OSError) else _of_sqlite(error)) or 0


def is_damage(error: Exception) -> bool:
    """Whether this error of SQLite's says that a file is no sound database, rather than that it cannot be used now."""
    import sqlite3

    # Of a text, or of its own message.
    if isinstance(error, UnicodeDecodeError | TypeError) or "Could not decode" in str(error):
        return True
    # An "error" is a table or column that is not there.
    kinds = (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    )
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in kinds


@cache
def tell(sentence: str) -> None:
    """Say this on standard error, once in the life of this process."""
    with contextlib.suppress(OSError, ValueError):  # there may be nobody to say it to
        print(sentence.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)


def _of_sqlite(error: Exception) -> int:
    """The system's number for what SQLite says; 0 for none."""
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return {
        sqlite3.SQLITE_FULL: errno.ENOSPC,
        sqlite3.SQLITE_READONLY: errno.EACCES,
        sqlite3.SQLITE_CANTOPEN: errno.EACCES,
        sqlite3.SQLITE_PERM: errno.EACCES,
    }.get(code, 0)


def _end(body: bytes) -> bytes:
    return (_END % hashlib.sha256(body).hexdigest()).encode()


def _read(data: bytes) -> tuple[dict[str, Any] | None, bool]:
    """What this says that ``remember`` wrote, if that can be used, and whether it is undamaged: what an older version
    wrote, without a checksum, is, and cannot be used."""
    content = None
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
    if not isinstance(content, dict):
        return None, False
    if data[-_LENGTH:] == _end(data[:-_LENGTH]):
        del content[_NAME]
        return content, True
    return None, _NAME not in content
