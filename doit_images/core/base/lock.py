"""Who else is doing this right now?

A lock on a file, which the kernel gives back when its holder ends, however it ends. What concerns one engine is locked
for all who use that engine on this machine, whatever checkout and whoever they are: see ``of_engine``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from doit_images.core.base import checked_json, commands
from doit_images.core.base.errors import UserError

_POLL_SECONDS = 0.05
_LOOKS, _LONGEST = 3, 300
_EVERYBODY = 0o666
_MAY_ONLY_BE_READ = (errno.EACCES, errno.EPERM, errno.EROFS)


def exclusive(path: Path, waiting: str = "") -> AbstractContextManager[object]:
    """Hold the lock of this file for the block. While another holds it, say ``waiting`` once and wait.

    ``Stopped`` when the run is stopped meanwhile, ``UserError`` for a file that cannot be locked.
    """
    return _opened(path, fcntl.LOCK_EX, lambda: print(waiting, file=sys.stderr, flush=True) if waiting else None)


def shared(path: Path, waiting: Callable[[], None]) -> AbstractContextManager[object]:
    """Hold the lock of this file together with others that share it; ``exclusive`` and ``try_exclusive`` wait for all
    of them, and it waits for those, calling ``waiting`` first. ``Stopped`` when the run is stopped meanwhile,
    ``UserError`` for a file that cannot be locked."""
    return _opened(path, fcntl.LOCK_SH, waiting)


def try_exclusive(path: Path) -> AbstractContextManager[bool]:
    """Whether this process holds the lock of this file for the block: false if another does. Never waits. ``UserError``
    for a file that cannot be locked."""
    return _opened(path, fcntl.LOCK_EX, None)


@contextlib.contextmanager
def passing(path: Path, who: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file that goes at the block's end, and in which stands ``who`` holds it, for ``holder``.

    While another holds it, ``waiting`` is called once and it is waited for. ``Stopped`` when the run is stopped
    meanwhile, ``UserError`` for a file that cannot be locked.
    """
    with _opened(path, fcntl.LOCK_EX, waiting):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _flags(os.O_WRONLY | os.O_TRUNC))
            with os.fdopen(descriptor, "w") as file:
                file.write(who)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # somebody else's, in a sticky folder
                path.unlink()


def holder(path: Path) -> str:
    """Who holds the lock of this file, in the holder's words on one line; "" if that is not to be read."""
    for _ in range(_LOOKS):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _flags(os.O_RDONLY))
            with os.fdopen(descriptor, errors="replace") as file:
                if words := "".join(filter(str.isprintable, file.read(_LONGEST))):
                    return words
        time.sleep(_POLL_SECONDS)  # it has just got it
    return ""


def of_engine(address: str, what: str, *named: str) -> Path:
    """The file of a lock for all of this machine who use the engine at ``address``, for ``what`` and what is named.

    Under ``/tmp``, which is one folder for everybody, as ``TMPDIR`` is not.
    """
    if address.startswith("unix://"):
        address = f"unix://{os.path.realpath(address.removeprefix('unix://'))}"
    digest = hashlib.sha256("\0".join((address, *named)).encode(errors="surrogateescape")).hexdigest()
    return for_everybody() / f"doit-images-{what}-{digest[:16]}.lock"


def for_everybody() -> Path:
    """The folder that holds the locks of everybody who uses an engine of this machine."""
    folder = Path("/tmp")  # noqa: S108  guessing the name gains nobody more than holding the lock would
    with contextlib.suppress(OSError):
        if folder.stat().st_mode & stat.S_ISVTX:
            return folder
    import tempfile

    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def _opened(path: Path, how: int, waiting: Callable[[], None] | None) -> Iterator[bool]:
    """The file open and locked for the block, waited for unless ``waiting`` is None; whether it could be locked."""
    descriptor = _file(path)
    announced = False
    try:
        while True:
            locked = _try(path, descriptor, how)
            if locked and not _is(path, descriptor):
                fresh = _file(path)  # it was removed while we waited: who comes now locks another
                os.close(descriptor)
                descriptor = fresh
            elif locked or waiting is None:
                break
            elif commands.stopping():
                raise commands.Stopped
            else:
                if not announced:
                    waiting()
                announced = True
                time.sleep(_POLL_SECONDS)
        yield locked
    finally:
        os.close(descriptor)


def _file(path: Path) -> int:
    """The file opened. ``UserError`` if it cannot be, or is something else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(FileNotFoundError):
                descriptor = _there(path)
                break
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, _flags(os.O_RDWR | os.O_CREAT | os.O_EXCL), _EVERYBODY)
                os.fchmod(descriptor, _EVERYBODY)
                break
    except OSError as error:
        what, remedy = f"this file cannot be locked: {error.strerror}", checked_json.remedy(path, error) or "remove it"
        raise UserError(what, where=str(path), remedy=remedy) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError("this file cannot be locked: it is not a regular file", where=str(path), remedy="remove it")
    with contextlib.suppress(OSError):
        os.utime(descriptor)  # what cleans this folder up takes old files
    return descriptor


def _there(path: Path) -> int:
    """A file that is there, opened for writing: NFS locks for one alone what is (flock(2)). One that may only be read
    is opened for reading, which is enough on a disk of this machine."""
    try:
        return os.open(path, _flags(os.O_RDWR))
    except OSError as error:
        if error.errno not in _MAY_ONLY_BE_READ:
            raise
    return os.open(path, _flags(os.O_RDONLY))


def _flags(how: int) -> int:
    # Not inherited: a command that outlives us must not go on holding it. O_CREAT only where it is missing: a kernel
    # that protects sticky folders refuses it for a file of somebody else.
    return how | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _is(path: Path, descriptor: int) -> bool:
    """Whether the file that is open is still the one of this name."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _try(path: Path, descriptor: int, how: int) -> bool:
    """Lock the open file; false if another holds it. ``UserError`` where the file system of its folder cannot."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"this file cannot be locked: {error.strerror}",
            where=str(path),
            remedy="you must be allowed to write to it, and its file system must have locks",
        ) from None
    return True
