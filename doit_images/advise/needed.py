"""What does a program or a library look for when it starts? Read from the file itself: nothing of an image is run."""

from __future__ import annotations

import struct
from typing import IO

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRINGS = 1, 5


def needed(file: IO[bytes]) -> tuple[str, ...]:
    """The names of the libraries that an ELF file is linked to, the path of what runs a script, or nothing. What cannot
    be read needs nothing that is known."""
    head = file.read(256)
    if head[:2] == b"#!":
        said = head.split(b"\n")[0][2:].split()[:1]
        return tuple(word.decode(errors="replace") for word in said if word.startswith(b"/"))
    if head[:4] != b"\x7fELF" or head[5:6] != b"\1":
        return ()
    try:
        return _linked(file, head, wide=head[4] == 2)
    except struct.error:
        return ()


def _linked(file: IO[bytes], head: bytes, *, wide: bool) -> tuple[str, ...]:
    (start,) = struct.unpack_from("<Q" if wide else "<I", head, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", head, 54 if wide else 42)
    table = _at(file, start, size * count)
    # Of each segment: its type, where it is in the file, its address, its length.
    form = "<I4xQQ8xQ" if wide else "<IIII"
    segments = [struct.unpack_from(form, table, each * size) for each in range(count)]
    if not wide:  # there the physical address stands where the length is asked for
        segments = [(*each[:3], struct.unpack_from("<I", table, at * size + 16)[0]) for at, each in enumerate(segments)]
    dynamic = next(((offset, length) for kind, offset, _, length in segments if kind == _DYNAMIC), None)
    if not dynamic:
        return ()
    said = _at(file, *dynamic)
    entry = "<QQ" if wide else "<II"
    whole = len(said) - len(said) % struct.calcsize(entry)
    entries = list(struct.iter_unpack(entry, said[:whole]))
    address = next(value for tag, value in [*entries, (_STRINGS, 0)] if tag == _STRINGS)
    loads = ((offset, start, length) for kind, offset, start, length in segments if kind == _LOAD)
    strings = next((offset + address - start for offset, start, length in loads if 0 <= address - start < length), 0)
    names = [_at(file, strings + value, 256).split(b"\0")[0] for tag, value in entries if tag == _NEEDED]
    return tuple(name.decode(errors="replace") for name in names)


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
