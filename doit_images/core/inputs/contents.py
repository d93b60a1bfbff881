"""What does one entry of a folder hold, and may that be remembered?

The racy-timestamp rule (git's): a file that may have been changed in the same clock tick in which it was hashed is
remembered as unknown, so the next look hashes it again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import sys
import time
from collections.abc import Iterable

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError, printable
from doit_images.core.base.formatting import size_text

RECORD = struct.Struct("<qqqQI")  # mtime_ns, ctime_ns, size, inode, mode
"""What of an entry's ``stat`` says that it is what it was."""
_TICK = 50_000_000  # kernels stamp files with a clock that lags up to 10 ms behind; five times that is safe
_LARGE = 2**30  # bytes
_BLOCK = 2**20
_TELL_SECONDS = 5.0
_COARSE_TICK = 2_100_000_000  # file systems that stamp whole seconds, or every other one


def tick(ctime_ns: int) -> int:
    """How long after a change with this stamp another one may still get the same stamp, in ns."""
    return _COARSE_TICK if ctime_ns % 1_000_000_000 == 0 else _TICK


def record_of(status: os.stat_result) -> bytes:
    """A file's ``RECORD``; of times that it has no room for (after 2262) the last bits, which move with them."""
    rest = status.st_size, status.st_ino, status.st_mode
    try:
        return RECORD.pack(status.st_mtime_ns, status.st_ctime_ns, *rest)
    except struct.error:
        times = ((ns + 2**63) % 2**64 - 2**63 for ns in (status.st_mtime_ns, status.st_ctime_ns))
        return RECORD.pack(*times, *rest)


def hashed(path: str, mode: int, record: bytes) -> tuple[bytes, bool]:
    """The digest of one entry, and whether a later look may trust it for an entry with the same ``record``."""
    begun = time.time_ns()
    try:
        content, after = _content(path, mode, RECORD.unpack(record)[2])
        more = attributes(path)
    except FileNotFoundError:
        return hashlib.sha256(b"vanished while it was read").digest(), False
    except OSError as error:
        raise UserError(f"cannot read this file: {error.strerror}", where=path) from None
    if more:
        content = hashlib.sha256(content + more).digest()
    same = record == record_of(after)
    settled = max(after.st_mtime_ns, after.st_ctime_ns) + tick(after.st_ctime_ns) < begun
    return content, same and settled and not _exchangeable(path, after)


def _exchangeable(path: str, status: os.stat_result) -> bool:
    """Whether another disk of the very same stamps may be mounted here: one that is only read, with times that were set
    when it was made (squashfs, ISO 9660, whatever a reproducible build makes)."""
    made = status.st_mtime_ns == status.st_ctime_ns and status.st_mtime_ns % 1_000_000_000 == 0
    return made and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _content(path: str, mode: int, size: int) -> tuple[bytes, os.stat_result]:
    if stat.S_ISREG(mode):
        # Without a file object and its buffers, which take as long as all the rest for a small file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return _read(descriptor, path, size), os.fstat(descriptor)
        finally:
            os.close(descriptor)
    if stat.S_ISLNK(mode):
        return hashlib.sha256(os.fsencode(os.readlink(path))).digest(), os.lstat(path)  # noqa: PTH115 str, as it is
    after = os.lstat(path)
    return hashlib.sha256(b"device %d" % after.st_rdev).digest(), after


def _read(descriptor: int, path: str, size: int) -> bytes:
    """The digest of an open file, which had this size; of a large one it says now and then how far it got. ``Stopped``
    if the run is."""
    digest, done, last = hashlib.sha256(), 0, time.monotonic()
    while block := os.read(descriptor, min(size, _BLOCK) + 1):
        digest.update(block)
        if size < _LARGE:
            continue
        done += len(block)
        if commands.stopping():
            raise commands.Stopped
        if time.monotonic() - last > _TELL_SECONDS:
            last = time.monotonic()
            print(f"reading {printable(path)}: {size_text(done)} of {size_text(size)}", file=sys.stderr, flush=True)
    return digest.digest()


def attributes(path: str) -> bytes:
    """The extended attributes that BuildKit's client sends and its checksums hold."""
    if not hasattr(os, "listxattr"):
        return b""
    try:
        names: Iterable[str] = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return b""
    out = b""
    for name in sorted(names):
        local = name.startswith(("security.", "system.", "com.apple."))
        if local and name != "security.capability":
            continue
        value = os.getxattr(path, name, follow_symlinks=False)
        out += b"%b\0%d\0%b" % (os.fsencode(name), len(value), value)
    return out
