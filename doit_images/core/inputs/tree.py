"""What is in a folder, and what is the content of its files?

``FileIndex`` is one look at the disk: every folder is listed at most once, whoever asks, and a file is read only when
its ``stat`` is not the one that was seen when it was last hashed. What was hashed is kept in an SQLite file: one row a
folder, with the names and stat fields of its entries as one string of bytes and their sha256s as another. When nothing
changed, comparing the first string is all that a whole folder costs. SQLite because two runs at once, or a kill at any
time, must leave a usable file; one that is broken all the same is made again, for it is only a memory.

BuildKit's client is less careful: of a context that a builder has seen, it sends again only what another size,
modification time or mode gives away, and of a folder not even that. What it would overlook is seen here, and starts
another ``generation`` of every context that holds it: one that goes by another name is sent whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from doit_images.core.base import checked_json
from doit_images.core.base.errors import UserError
from doit_images.core.inputs import contents
from doit_images.core.inputs.contents import RECORD

_SIZE = RECORD.size
_UNKNOWN = bytes(32)
LINE = b"%b\0%o\0%d\0%b"
"""What counts of an entry: its name and mode, and how long what follows is."""
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # of a damaged file even the message may be none
_DOUBT = 1 << 31  # in the mode of a record: the hash must not be trusted. No real file has that bit
_SCHEMA = (
    "DROP TABLE IF EXISTS folder",  # of versions without checksums, and what went with it
    "DROP TABLE IF EXISTS generation",
    "CREATE TABLE IF NOT EXISTS folders (path BLOB PRIMARY KEY, stamps BLOB, digests BLOB, sum INTEGER) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS generations (root BLOB PRIMARY KEY, name TEXT) WITHOUT ROWID",
)


class Folder:
    """The entries of one folder, sorted: ``names`` and their ``modes`` (``st_mode``, type bits included).

    ``overlooked`` is whether something changed since an earlier look that BuildKit's client would not send again.
    """

    __slots__ = ("_before", "_digests", "_place", "_records", "_stored", "_whole", "modes", "names", "overlooked",
                 "path")  # fmt: skip

    def __init__(self, path: str, rows: list[tuple[str, int, bytes]]) -> None:
        self.path = path
        self.names = [row[0] for row in rows]
        self.modes = [row[1] for row in rows]
        self._records = [row[2] for row in rows]
        self._digests = bytearray(32 * len(rows))
        self._before: dict[int, bytes] = {}
        self._place: dict[str, int] | None = None
        self._stored = False
        self._whole = b""
        self.overlooked = False

    def find(self, name: str) -> int:
        """The place of ``name`` in ``names``, or -1."""
        if self._place is None:
            self._place = {name: number for number, name in enumerate(self.names)}
        return self._place.get(name, -1)

    def digest(self, number: int) -> bytes:
        """sha256 of what entry ``number`` holds: a file's bytes, a link's target, a device's numbers.

        Extended attributes that BuildKit copies are part of it (setting one moves the entry's ctime).
        """
        start = 32 * number
        known = bytes(self._digests[start : start + 32])
        if known != _UNKNOWN:
            return known
        digest, trusted = contents.hashed(
            f"{self.path}/{self.names[number]}", self.modes[number], self._records[number]
        )
        self._digests[start : start + 32] = digest
        self._whole = b""
        if not trusted:
            mtime, ctime, size, inode, mode = RECORD.unpack(self._records[number])
            self._records[number] = RECORD.pack(mtime, ctime, size, inode, mode | _DOUBT)
        if self._before.get(number, digest) != digest:
            self.overlooked = True
        self._stored = False
        return digest

    def attributes(self, number: int) -> bytes:
        """The extended attributes of the folder that entry ``number`` is, as bytes to hash."""
        start = 32 * number
        attributes = contents.attributes(f"{self.path}/{self.names[number]}")
        digest = hashlib.sha256(attributes).digest() if attributes else _UNKNOWN
        if self._digests[start : start + 32] != digest:  # no time stamp of a folder is kept, so each look compares
            self._digests[start : start + 32] = digest
            self._whole = b""
            self._stored = False
            self.overlooked = True
        return attributes

    def whole(self) -> bytes:
        """sha256 of what all entries hold, with names and modes, of a folder that holds none. Remembered too: while
        a folder looks as it did, nothing is done for each of its files."""
        if not self._whole:
            names = os.fsencode("\0".join(self.names)).split(b"\0")
            digests = [self.digest(number) for number in range(len(self.names))]
            lines = [LINE % entry for entry in zip(names, self.modes, map(len, digests), digests, strict=True)]
            self._whole = hashlib.sha256(b"".join(lines)).digest()
            self._stored = False
        return self._whole

    def recall(self, stamps: bytes, digests: bytes) -> None:
        """Take over what was known when the folder looked like ``stamps``, entry by entry where it changed."""
        if stamps == self.stamps():
            size = 32 * len(self.names)
            self._digests, self._whole = bytearray(digests[:size]), digests[size:]
            self._stored = True
            return
        names, _, records = stamps.partition(b"/")
        known = {
            name: (records[_SIZE * at : _SIZE * at + _SIZE], digests[32 * at : 32 * at + 32])
            for at, name in enumerate(names.split(b"\0"))
        }
        for number, name in enumerate(self.names):
            record, digest = known.pop(os.fsencode(name), (b"", b""))
            if record == self._records[number]:
                self._digests[32 * number : 32 * number + 32] = digest
            elif record:
                self._compare(number, record, digest)
        # What is gone may come back with its time and other content, when nobody remembers what it was.
        self.overlooked |= any(digest != _UNKNOWN and _set_by_hand(record) for record, digest in known.values())

    def _compare(self, number: int, before: bytes, digest: bytes) -> None:
        """Note what this entry held before, if BuildKit's client cannot tell it from what it holds now."""
        old, new = (RECORD.unpack(record) for record in (before, self._records[number]))
        if stat.S_ISDIR(self.modes[number]):
            self.overlooked |= stat.S_ISDIR(old[4])  # then it is the mode that changed
        elif digest != _UNKNOWN:
            if (old[0], old[2], old[4] & ~_DOUBT) == (new[0], new[2], new[4]):
                self._before[number] = digest
            else:
                self.overlooked |= _set_by_hand(before)  # its time may come back, as that of what is gone

    def stamps(self) -> bytes:
        """Names and stat fields of all entries; no name holds ``/`` or NUL."""
        return os.fsencode("\0".join(self.names)) + b"/" + b"".join(self._records)

    def row(self) -> tuple[bytes, bytes, bytes, int] | None:
        """What to keep of this folder, or ``None`` when it is kept already."""
        if self._stored:
            return None
        # What it was before is forgotten now, so whoever hashes it later cannot tell whether it is still the same.
        self.overlooked |= any(self._digests[32 * at : 32 * at + 32] == _UNKNOWN for at in self._before)
        self._stored = True
        kept = os.fsencode(self.path), self.stamps(), bytes(self._digests) + self._whole
        return *kept, _sum(*kept)


class FileIndex:
    """One look at the disk, and the memory of earlier ones in ``store`` (``None``: no memory).

    Open another ``FileIndex`` to look again: what this one has listed, it never lists a second time. Any number of
    them may use one ``store`` at once.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        self._folders: dict[str, Folder] = {}
        self._remembered: dict[str, list[object]] = {}
        self._recalled: set[str] = set()
        self._db: sqlite3.Connection | None = None
        self._opened = False
        self._released = False

    def folder(self, path: str) -> Folder:
        """The listing of the folder at an absolute, real ``path``; ``UserError`` when it cannot be read."""
        listing = self._folders.get(path)
        if listing is None:
            listing = self._folders[path] = _list(path)
            row = self._remembered.pop(path, None)
            if row and listing.names:
                self._give(listing, row)
        return listing

    def recall(self, root: str) -> None:
        """Read what is remembered of the folders at and below ``root``, an absolute, real path: one question to the
        store instead of one for each folder."""
        if not self._recalled.isdisjoint(_roots(root)) or (db := self._open(create=False)) is None:
            return
        self._recalled.add(root)
        first = os.fsencode(root.rstrip("/"))
        try:
            rows = db.execute(
                "SELECT path, stamps, digests, sum FROM folders WHERE path >= ? AND path < ?", (first, first + b"0")
            )
            self._remembered.update((os.fsdecode(path), row) for path, *row in rows)
        except (*_ERRORS, TypeError) as error:
            self._drop(error)

    def generation(self, root: str) -> str:
        """A name for all states of the context at ``root``, an absolute, real path, that BuildKit's client can tell
        from each other: another one as soon as it could not, and where nothing is remembered."""
        self.save()
        name, key = os.urandom(8).hex(), os.fsencode(root)
        if any(folder.overlooked for folder in self._listed()):
            return name
        with self._writing() as db:
            if db is not None:
                db.execute("INSERT OR IGNORE INTO generations VALUES (?, ?)", (key, name))
                kept = db.execute("SELECT name FROM generations WHERE root = ?", (key,)).fetchone()
                return str(kept[0]) if kept else name
        return name

    def renew(self) -> None:
        """Begin another generation of all contexts: a builder may have been sent what no look at the disk has seen."""
        with self._writing() as db:
            if db is not None:
                db.execute("DELETE FROM generations")

    def save(self) -> None:
        """Keep what was hashed. A store that cannot be written is no error: the next look hashes again."""
        rows = [row for folder in self._listed() if folder.names and (row := folder.row())]
        if not rows:
            return
        overlooked = [folder for folder in self._listed() if folder.overlooked]
        with self._writing() as db:
            if db is None:
                return
            db.executemany("INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?)", rows)
            roots = ((os.fsencode(root),) for folder in overlooked for root in _roots(folder.path))
            db.executemany("DELETE FROM generations WHERE root = ?", roots)
            db.commit()
            for folder in overlooked:
                folder.overlooked = False

    def release(self) -> None:
        """Close the store, for callers that keep many looks. A later question opens it for that question alone."""
        self._released = True
        self._let_go()

    def _let_go(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _listed(self) -> list[Folder]:
        """What is listed at this moment: another thread may list, and hash, more meanwhile."""
        return list(self._folders.values())

    def _give(self, folder: Folder, row: list[Any]) -> None:
        """Give a folder what is remembered of it."""
        if _well_formed(os.fsencode(folder.path), *row):
            folder.recall(*row[:2])
        elif self._store:
            checked_json.damaged(self._store)
            folder.overlooked = True  # what a builder was sent of it, nobody knows any more

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection | None]:
        """The store, for the block one transaction; None where there is none. What SQLite refuses ends the block."""
        db = self._open(create=True)
        try:
            with db or contextlib.nullcontext():
                yield db
        except _ERRORS as error:
            self._drop(error)
        finally:
            if self._released:
                self._let_go()

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        if self._db is not None or self._store is None or (self._opened and not create):
            return self._db
        self._opened = True
        if not create and not self._store.exists():
            return None
        try:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._store, timeout=5, check_same_thread=False)
            self._db.execute("PRAGMA synchronous = NORMAL")
            for statement in _SCHEMA:
                self._db.execute(statement)
        except (OSError, *_ERRORS) as error:
            self._drop(error)
        return self._db

    def _drop(self, error: Exception) -> None:
        """Go on without the store; one that is not a sound database goes away (a busy or full one stays)."""
        self._let_go()
        if self._store is None:
            return
        if checked_json.is_damage(error):
            checked_json.damaged(self._store)
            with contextlib.suppress(OSError):
                self._store.unlink()
        else:
            checked_json.unwritten(self._store, error)


class Tree:
    """A context: the folder at ``root``, looked at through a ``FileIndex`` that all contexts share."""

    def __init__(self, root: Path, index: FileIndex) -> None:
        self.root = os.path.realpath(root)
        self.index = index
        index.recall(self.root)

    def folder(self, path: str) -> Folder:
        """The listing of a folder of the context; ``path`` is relative to it, ``""`` the context itself."""
        return self.index.folder(f"{self.root}/{path}" if path else self.root)

    def link(self, path: str) -> str:
        """Where the link at ``path`` points, as its text says."""
        return os.readlink(f"{self.root}/{path}")  # noqa: PTH115 Path would tidy the text

    def attributes(self, path: str) -> bytes:
        """The extended attributes of the folder at ``path``, as bytes to hash."""
        above, _, name = path.rpartition("/")
        return (listing := self.folder(above)).attributes(listing.find(name))


def _roots(path: str) -> Iterator[str]:
    """Where a context may begin that holds the folder at ``path``, whoever has looked at it: there, and above it."""
    yield "/"
    yield from accumulate(path.split("/"), "{}/{}".format)


def _list(path: str) -> Folder:
    rows = []
    pack = RECORD.pack
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                mode = status.st_mode
                if mode & 0o170000 == 0o040000:  # a folder's times move with what is in it: not its own news
                    record = pack(0, 0, 0, 0, mode)
                else:
                    try:
                        record = pack(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, mode)
                    except struct.error:
                        record = contents.record_of(status)
                rows.append((entry.name, mode, record))
    except OSError as error:
        raise UserError(f"cannot list this folder: {error.strerror}", where=path) from None
    rows.sort()
    return Folder(path, rows)


def _set_by_hand(record: bytes) -> bool:
    """Whether an entry has a time of whole seconds: clocks hardly ever give one, reproducible builds do."""
    return bool(RECORD.unpack(record)[0] % 1_000_000_000 == 0)


def _sum(path: bytes, stamps: bytes, digests: bytes) -> int:
    """A checksum over a row: of a wrong digest nothing else would tell."""
    return zlib.crc32(digests, zlib.crc32(stamps, zlib.crc32(path)))


def _well_formed(path: bytes, stamps: object, digests: object, kept: object) -> bool:
    if not isinstance(stamps, bytes) or not isinstance(digests, bytes) or kept != _sum(path, stamps, digests):
        return False
    names, slash, records = stamps.partition(b"/")
    count = names.count(b"\0") + 1
    return bool(slash) and len(records) == _SIZE * count and len(digests) in (32 * count, 32 * count + 32)
