"""What would stay if this process were killed now?

Temporary folders, half-written files, names that images have for the time of a build: each is written down before it
is made, in a file that this process keeps locked. The file of one that was killed is not locked any more, so the next
run sees what is left, and removes it. A journal that cannot be written is done without.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from doit_images.core.base.errors import UserError, os_reason

Entry = tuple[str, ...]
"""A kind, ``path``, ``aside`` (where a folder is for a moment, and where it was) or another room's, and what tells
which one it is."""
PATH, ASIDE = "path", "aside"
_SUFFIX = ".json"
_LAST_SECONDS = 0.5  # so long the threads of a run that is stopped have for the ends of their blocks


class ProcessJournal:
    """What one process has for its own time."""

    def __init__(self) -> None:
        self._where: Callable[[], Path] | None = None
        self._file: Path | None = None
        self._descriptor = -1
        self._there: set[Entry] = set()
        self._lock = threading.Lock()

    def keep_in(self, where: Callable[[], Path]) -> None:
        """From now on, write into a file of the folder that ``where`` tells when it is first needed."""
        self._where = where

    def made(self, *entry: str) -> None:
        """This is about to be made."""
        with self._lock:
            self._there.add(entry)
            self._begin()
            self._write("+", entry)

    def gone(self, *entry: str) -> None:
        """This is not there any more."""
        with self._lock:
            if entry in self._there:
                self._there.remove(entry)
                self._write("-", entry)

    def has(self, *entry: str) -> bool:
        """Whether this was made by this process, and is there."""
        return entry in self._there

    def close(self) -> None:
        """The process ends: the journal goes, unless something is left, which is then the next run's."""
        until = time.monotonic() + _LAST_SECONDS
        while self._there and time.monotonic() < until:
            time.sleep(0.01)
        if self._file and not self._there:
            self._file.unlink(missing_ok=True)

    def _begin(self) -> None:
        if self._where is None or self._file:
            return
        where, self._where = self._where, None
        with contextlib.suppress(Exception):  # no Compose file, a folder that cannot be written
            folder = where()
            folder.mkdir(exist_ok=True)
            file = folder / f"{os.getpid()}-{os.urandom(6).hex()}"
            self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = file.rename(file.with_suffix(_SUFFIX))  # only now anybody looks whether it is locked
            atexit.register(self.close)

    def _write(self, sign: str, entry: Entry) -> None:
        if self._file:
            with contextlib.suppress(OSError):
                line = json.dumps([sign, *entry])
                os.write(self._descriptor, f"{_sum(line)} {line}\n".encode())


def abandoned(folder: Path) -> list[Path]:
    """The journals of processes that are gone."""
    try:
        journals = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in journals if not _in_use(path)]


def entries(journal: Path) -> set[Entry]:
    """What a process that is gone had made and not removed; a line that was half written, or is damaged,
    counts for nothing: what it says is removed."""
    left: set[Entry] = set()
    with contextlib.suppress(OSError):
        for line in journal.read_text(errors="replace").splitlines():
            checksum, _, content = line.partition(" ")
            with contextlib.suppress(ValueError, TypeError):
                sign, *entry = json.loads(content if checksum == _sum(content) else "")
                if sign in ("+", "-") and all(isinstance(word, str) for word in entry):
                    (left.add if sign == "+" else left.discard)(tuple(entry))
    return left


def _sum(line: str) -> str:
    return f"{zlib.crc32(line.encode(errors='replace')):08x}"


def remove(path: Path) -> bool:
    """Remove a file or a folder that a process that is gone had made; whether it was there. What belongs to others, or
    in which something is still mounted, stays, and so does a file that another process has locked since."""
    with contextlib.suppress(OSError):
        if path.lstat().st_uid != os.geteuid() or _mounted_in(path):
            return False
        if path.is_dir() and not path.is_symlink():
            import shutil  # only who has something to remove needs it

            shutil.rmtree(path, ignore_errors=True)
        elif locked(path):
            return False
        else:
            path.unlink()
        return True
    return False


def lives(number: str) -> bool:
    """Whether there is a process with this number, whoever's it is. Where there is no ``/proc`` (macOS) too.

    >>> lives(str(os.getpid())), lives("nobody"), lives("0")
    (True, False, False)
    """
    if not number.isdecimal() or not 0 < int(number) < 2**31:
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def locked(path: Path) -> bool:
    """Whether a process holds the lock of this file. ``OSError`` where it cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _in_use(journal: Path) -> bool:
    """Whether its process lives. One that was killed before it gave its journal its name is told by its number."""
    if journal.suffix != _SUFFIX:
        return lives(journal.name.partition("-")[0])
    try:
        return locked(journal)
    except OSError:
        return True


def _mounted_in(path: Path) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    inside = f"{os.path.realpath(path)}/"
    return any(f"{_unescaped(line.split()[4])}/".startswith(inside) for line in mounts)


def _unescaped(place: str) -> str:
    """A path as it stands in ``mountinfo``, without escapes.

    >>> _unescaped("/a\\\\040b")
    '/a b'
    """
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place)


_ours = ProcessJournal()
keep_in, made, gone, has = _ours.keep_in, _ours.made, _ours.gone, _ours.has


@contextlib.contextmanager
def noted(path: Path) -> Iterator[Path]:
    """For the block, in which this is made: the next run removes it if this process is killed. Its maker removes it."""
    made(PATH, str(path))
    try:
        yield path
    finally:
        gone(PATH, str(path))


@contextlib.contextmanager
def folder(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """A new folder for the block, where temporary files lie, or ``within`` another one."""
    import shutil
    import tempfile

    path = Path(within or tempfile.gettempdir(), f"{prefix}{os.urandom(6).hex()}").absolute()
    with noted(path):
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def refuse_foreign(target: Path, index: str, what: str) -> None:
    """``UserError`` where a folder holds anything, and no file ``index``: it is something else than ``what``; also
    where none can ``take_the_place_of`` it, since it is mounted."""
    if target.exists() and any(target.iterdir()) and not (target / index).is_file():
        raise UserError(f"{target} holds something else than {what}", remedy="name an empty or a new folder")
    if _mounted_in(target):
        raise UserError(f"{target} is mounted, so no other folder can take its place", remedy="name a folder in it")


def take_the_place_of(target: Path, made: Path) -> None:
    """Let a folder that was made beside ``target`` take its place. ``UserError`` where it cannot; what was there is
    removed only when the new one is, and the next run brings it back if this process is killed before."""
    import shutil

    aside = target.with_name(f".{target.name}-{os.urandom(6).hex()}")
    entry = (ASIDE, str(aside), str(target))
    _ours.made(*entry)
    try:
        with contextlib.suppress(FileNotFoundError):  # a new one
            target.rename(aside)
        made.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written over: {os_reason(error)}; what was there is as it was",
            remedy="name another folder",
        ) from None
    finally:
        bring_back(aside, target)
        if not aside.exists():
            _ours.gone(*entry)


def bring_back(aside: Path, target: Path) -> bool:
    """What ``take_the_place_of`` moved aside goes if there is something in its place, and back if not; whether it was
    still there."""
    with contextlib.suppress(OSError):
        if target.exists():
            return remove(aside)
        aside.rename(target)
        return True
    return False
