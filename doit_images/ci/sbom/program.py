"""Which modules is a program made of? Go's linker says so in what it links, other compilers do not.

What it says is the Go program's own text, as ``go version -m`` prints it (Go's package debug/buildinfo): found by its
first bytes, since Go 1.18 two strings with their lengths before them.
"""

from __future__ import annotations

import re
from typing import IO

_GO, _HEADER = b"\xff Go buildinf:", 32
_MODULE = re.compile(r"^(?:mod|dep)\t([^\t]+)\t([^\t\n]*).*(?:\n=>\t([^\t]+)\t([^\t\n]*))?", re.MULTILINE)
_RUST = re.compile(rb"/rustc/[0-9a-f]{40}/")  # where its standard library was, in what a panic says
_CHUNK, _MOST, _OVERLAP = 1 << 20, 4 << 20, 64


def modules(file: IO[bytes]) -> tuple[list[tuple[str, str]], str]:
    """Name and version of each module in a program for Linux, and what else it was made with, whose parts are not
    known."""
    if file.read(4) != b"\x7fELF":
        return [], ""
    window, foreign = b"", ""
    while chunk := file.read(_CHUNK):
        window += chunk
        foreign = foreign or ("Rust" if _RUST.search(window) else "")
        at = window.find(_GO)
        while at >= 0:
            window = window[at:] if len(window) - at >= _MOST else window[at:] + file.read(_MOST)
            if found := _said(window):
                return found, foreign or ("" if found[1:] else "Go without its modules")
            if window[14:16] in (b"\4\0", b"\4\1", b"\10\0", b"\10\1"):  # only where these strings are
                foreign = foreign or "Go before 1.18"
            at = window.find(_GO, 1)  # what reads such programs has these bytes as well
        window = window[-_OVERLAP:]
    return [], foreign


def _said(window: bytes) -> list[tuple[str, str]]:
    """What stands at the beginning of these bytes, if it is what Go's linker writes."""
    version, end = _text(window, _HEADER)
    if not version.startswith(b"go"):
        return []
    said = _text(window, end)[0][16:-16].decode(errors="replace")  # between marks for programs without sections
    named = [(other or name, number if other else own) for name, own, other, number in _MODULE.findall(said)]
    own = ("stdlib", version.decode(errors="replace").split()[0].removeprefix("go"))
    return [own, *((name, "" if number == "(devel)" else number) for name, number in named)]


def _text(window: bytes, at: int) -> tuple[bytes, int]:
    """A string with its length before it, seven bits a byte, and where it ends; "" where there is none."""
    size = shift = 0
    for byte in window[at : at + 5]:
        size, shift, at = size | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return window[at : at + size], at + size
    return b"", at
