"""How do other people's Dockerfiles build where their bases cannot be had and nothing of theirs should be run?

By the real frontend and with nearly the text that they have: what stands in for each base is an image in which every
program ends at once and well. A ``RUN`` then does nothing, whatever it says and however it is written, but that it
writes something new wherever a stage's results are looked for, as a compiler would: what is copied from there differs
when the step was executed anew. What BuildKit misses there (a file that a stage should have made, a program, a user) it
names in its error, and the stand-ins get it: no parser of ours says what a Dockerfile reads. Two things are rewritten:
a ``# syntax=`` line, for that frontend would come from a registry, and a digest behind a base's name, which becomes
part of its tag.
"""

from __future__ import annotations

import io
import re
import struct
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from doit_images.core.base import commands

_SYNTAX = re.compile(r"\A(?:#[^\n]*\n)*?(#[ \t]*syntax[ \t]*=[^\n]*\n)", re.IGNORECASE)
_DIGEST = re.compile(r"(:[\w.-]+)?@sha256:([0-9a-f]{12})[0-9a-f]{52}")
# How BuildKit and runc name what is missing.
_BASE = re.compile(r"failed to resolve source metadata for ([^\s:]+(?::\d+/[^\s:]+)?(?::[\w.-]+)?)")
_FILE = re.compile(r'checksum of ref [^"\n]*: "(/[^"\n]*)": not found|buildkit-mount\d+(/[^:\s]+): no such file')
_PROGRAM = re.compile(r'exec: \\?"([^"\\]+)\\?": (?:executable file not found|stat|no such file)')
_USER = re.compile(r"unable to find user ([\w.-]+)|can't find uid for user ([\w.-]+)")
_GROUP = re.compile(r"unable to find group ([\w.-]+)|can't find gid for group ([\w.-]+)")
# getrandom(buffer, 16, 0); for each path: open(path, O_WRONLY|O_CREAT|O_TRUNC, 0666), write(file, buffer, 16), close;
# exit(0). The buffer stands behind the code, the paths behind that.
_CODE = bytes.fromhex(
    "488d3d68000000be1000000031d2b83e0100000f05488d1d63000000803b0074454889dfbe41020000bab6010000b8020000000f05"
    "85c078224189c489c7488d352a000000ba10000000b8010000000f054489e7b8030000000f0548ffc3807bff0075f7ebb631ffb83c"
    "0000000f05" + 16 * "00"
)
_SHELLS = ("/bin/sh", "/bin/bash", "/bin/ash", "/usr/bin/env")


def plain(text: str) -> str:
    """A Dockerfile that needs no registry for its frontend and names no digest.

    >>> plain("# syntax=docker/dockerfile:1\\nFROM a:1@sha256:" + "0123456789ab" + 52 * "0")
    'FROM a:1-0123456789ab'
    """
    found = _SYNTAX.match(text)
    if found:
        text = text[: found.start(1)] + text[found.end(1) :]
    return _DIGEST.sub(lambda digest: f"{digest[1] or ':sha256'}-{digest[2]}", text)


@dataclass
class StandIns:
    """What stands in for bases in one engine: their names, and what there is in all of them."""

    environ: Mapping[str, str]
    bases: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    programs: set[str] = field(default_factory=lambda: set(_SHELLS))
    users: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    _made: dict[str, bytes] = field(default_factory=dict)

    def learn(self, said: str) -> bool:
        """Take up what BuildKit misses, from what it said; false if that is nothing new."""
        before = self._known()
        self.bases |= {_familiar(ref) for ref in _BASE.findall(said)}
        self.files |= {re.sub(r"[*?]|\[.*?\]", "x", one or other) for one, other in _FILE.findall(said)} - {"/"}
        self.programs |= {name if "/" in name else f"/usr/bin/{name}" for name in _PROGRAM.findall(said)}
        self.users |= {one or other for one, other in _USER.findall(said)}
        self.groups |= {one or other for one, other in _GROUP.findall(said)}
        return self._known() != before

    def make(self, more: Iterable[str] = ()) -> None:
        """Give the engine a stand-in for each base, these too, where it has none with all that is known; each is an
        image of its own, as another base is another content."""
        self.bases |= {_familiar(ref) for ref in more}
        for ref in sorted(self.bases):
            content = self._layer(ref)
            if self._made.get(ref) != content:
                argv = ["docker", "import", "-", ref]
                commands.run(argv, env=self.environ, stdin=content).checked(f"docker import {ref}")
                self._made[ref] = content

    def _known(self) -> tuple[int, ...]:
        return tuple(map(len, (self.bases, self.files, self.programs, self.users, self.groups)))

    def _layer(self, ref: str) -> bytes:
        users = "".join(f"{name}:x:{900 + at}:900::/:/bin/sh\n" for at, name in enumerate(sorted(self.users)))
        groups = "".join(f"{name}:x:{900 + at}:\n" for at, name in enumerate(sorted(self.groups)))
        # A folder with a file in it can be copied as either.
        made = sorted(f"{path.rstrip('/')}/made" for path in (*self.files, "/"))
        files = {
            "/etc/passwd": (f"root:x:0:0::/:/bin/sh\n{users}".encode(), 0o644),
            "/etc/group": (f"root:x:0:\n{groups}".encode(), 0o644),
            "/etc/stands-in-for": (ref.encode(), 0o644),
            **dict.fromkeys(made, (b"", 0o666)),
            **{path: (program(made), 0o755) for path in self.programs},
        }
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            for path, (content, mode) in sorted(files.items()):
                entry = tarfile.TarInfo(str(PurePosixPath(path).relative_to("/")))
                entry.size, entry.mode = len(content), mode
                tar.addfile(entry, io.BytesIO(content))
        return layer.getvalue()


def rewrite(paths: Iterable[Path]) -> None:
    """Make these Dockerfiles plain."""
    for path in paths:
        if path.is_file() and (text := path.read_text(errors="surrogateescape")) != plain(text):
            path.write_text(plain(text), errors="surrogateescape")


def program(paths: Iterable[str] = ()) -> bytes:
    """A program for Linux on x86-64 that writes something new into each of these files and ends with status 0, whatever
    it is given."""
    code = _CODE + b"".join(path.encode() + b"\0" for path in paths) + b"\0"
    start, size = 0x400000, 64 + 56 + len(code)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 7, 0, start, start, size, size, 0x1000) + code


def _familiar(ref: str) -> str:
    short = ref.removeprefix("docker.io/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"
