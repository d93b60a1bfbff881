"""Which packages does rpm's database list? Of its forms the one that distributions use now: SQLite, which Python reads.

A row of it holds the header of a package: how many entries, 16 bytes for each (tag, type, place, count), and the bytes
that they point into (https://rpm-software-management.github.io/rpm/manual/format_header.html).
"""

from __future__ import annotations

import re
import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

FILE = re.compile(r"(var/lib|usr/lib/sysimage|usr/share)/rpm/rpmdb\.sqlite(-wal)?")
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE, _SOURCE = 1000, 1001, 1002, 1003, 1022, 1044
_KEY = "gpg-pubkey"  # whose packages are trusted, which is listed like a package


def packages(files: Mapping[str, bytes], path: str) -> Iterator[tuple[str, ...]]:
    """Name, version, architecture, source and epoch of the packages in the database at this path, with its own log
    (``-wal``) of what is not merged yet; of a log none. ``ValueError`` where it cannot be read."""
    if path.endswith("-wal"):
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in {path, f"{path}-wal"} & files.keys():
            Path(folder, Path(name).name).write_bytes(files[name])
        try:
            with closing(sqlite3.connect(Path(folder, Path(path).name))) as database:
                headers = [_header(blob) for (blob,) in database.execute("SELECT blob FROM Packages")]
        except (sqlite3.Error, struct.error, TypeError) as error:
            raise ValueError(str(error)) from None
    for each in headers:
        if each[_NAME] != _KEY:
            more = (each.get(tag, "") for tag in (_ARCHITECTURE, _SOURCE, _EPOCH))
            yield (each[_NAME], f"{each[_VERSION]}-{each[_RELEASE]}", *more)


def _header(blob: bytes) -> dict[int, str]:
    """The texts and the first numbers of a header, by tag."""
    entries, found = struct.unpack_from(">I", blob)[0], {}
    for entry in range(entries):
        tag, kind, place, _ = struct.unpack_from(">IIII", blob, 8 + 16 * entry)
        place += 8 + 16 * entries
        if kind == 4:  # a number of 32 bits
            found[tag] = str(struct.unpack_from(">I", blob, place)[0])
        elif kind == 6:  # a text
            found[tag] = blob[place : blob.index(b"\0", place)].decode(errors="replace")
    return found
