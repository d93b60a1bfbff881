"""A small project as data: what lies in its folder, the environment of who builds it, and a change of both.

``UNIQ`` in names and texts becomes a word that no other case had: BuildKit's client knows a context by the last part of
its path. ``NAME`` becomes what images are called, which is another word for us than for Compose, who is the judge.
``SERVICE:s0`` is a named context that is another image of the project: not every Compose can build that.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class File(NamedTuple):
    """A file with another mode than 0644; a plain string is one with that."""

    text: str
    mode: int = 0o644


class Link(NamedTuple):
    to: str


class Folder(NamedTuple):
    mode: int = 0o755


class Tar(NamedTuple):
    """An archive that holds one file."""

    name: str
    text: str


Entry = str | File | Link | Folder | Tar


@dataclass(frozen=True)
class Project:
    """The entries of a folder by their path, and variables of the environment."""

    tree: Mapping[str, Entry]
    environ: Mapping[str, str] = field(default_factory=dict)

    def changed(self, tree: Mapping[str, Entry | None], environ: Mapping[str, str | None]) -> Project:
        """With these entries and variables instead; None takes one away."""
        after = {path: entry for path, entry in {**self.tree, **tree}.items() if entry is not None}
        variables = {name: value for name, value in {**self.environ, **environ}.items() if value is not None}
        return Project(after, variables)


@dataclass(frozen=True)
class Case:
    """A project and what became of it; ``kind`` says in a few words what the change was, ``touched`` are paths that
    only got another time."""

    kind: str
    before: Project
    tree: Mapping[str, Entry | None] = field(default_factory=dict)
    environ: Mapping[str, str | None] = field(default_factory=dict)
    touched: tuple[str, ...] = ()

    @property
    def after(self) -> Project:
        return self.before.changed(self.tree, self.environ)

    def __str__(self) -> str:
        """As it is written into a table of cases."""
        shown = [f"    {self.kind!r},", "    Project(", f"        {_rows(self.before.tree, 12)},"]
        shown += [f"        environ={dict(self.before.environ)!r},"] * bool(self.before.environ) + ["    ),"]
        shown += [f"    tree={_rows(self.tree, 8)},"] * bool(self.tree)
        shown += [f"    environ={dict(self.environ)!r},"] * bool(self.environ)
        shown += [f"    touched={self.touched!r},"] * bool(self.touched)
        return "\n".join(["Case(", *shown, ")"])


def _rows(tree: Mapping[str, Entry | None], indent: int) -> str:
    rows = [f"{' ' * indent}{path!r}: {entry!r}," for path, entry in tree.items()]
    return "\n".join(["{", *rows, " " * (indent - 4) + "}"])


@dataclass(frozen=True)
class Words:
    """What stands for ``NAME``, ``UNIQ`` and, where it is told, for ``SERVICE:``."""

    name: str
    uniq: str
    service: str = "service:"

    def put(self, text: str) -> str:
        return text.replace("SERVICE:", self.service).replace("NAME", self.name).replace("UNIQ", self.uniq)

    def environ(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {self.put(name): self.put(value) for name, value in variables.items()}

    def lay(self, root: Path, tree: Mapping[str, Entry | None]) -> None:
        """Put entries into a folder, in place of what lies there; None takes one away."""
        for path, entry in sorted(tree.items(), key=lambda item: (item[1] is not None, item[0])):
            place = root / self.put(path)
            if not (isinstance(entry, Folder) and place.is_dir() and not place.is_symlink()):
                _away(place)
            if entry is not None:
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                self._make(place, entry)

    def _make(self, place: Path, entry: Entry) -> None:
        match entry:
            case Link(to):
                place.symlink_to(self.put(to))
            case Folder(mode):
                place.mkdir(exist_ok=True)
                place.chmod(mode)
            case Tar(name, text):
                place.write_bytes(_packed(name, self.put(text).encode()))
            case _:
                file = File(entry) if isinstance(entry, str) else entry
                place.write_bytes(self.put(file.text).encode(errors="surrogateescape"))
                place.chmod(file.mode)


def touch(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        os.utime(root / path, (1, 1), follow_symlinks=False)


def _away(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif place.is_symlink() or place.exists():
        place.unlink()


def _packed(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()
