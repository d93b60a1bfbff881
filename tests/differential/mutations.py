"""Every way in which somebody may change a path of a context."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """``apply`` changes ``path`` of the context it is given, in the way that ``kind`` names."""

    kind: str
    path: str
    apply: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


def paths(root: Path) -> list[str]:
    """All paths below ``root``, folders before what they hold."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def all_of(root: Path) -> Iterator[Mutation]:
    """All mutations of a context, kind by kind."""
    for path in paths(root):
        mode = (root / path).lstat().st_mode
        if stat.S_ISLNK(mode):
            kinds = [delete, rename, retarget, touch]
        elif stat.S_ISDIR(mode):
            kinds = [chmod, delete, rename, add_file, add_folder, touch]
        else:
            kinds = [change, chmod, delete, rename, touch, to_folder]
        for kind in kinds:
            yield kind(path)
    yield add_file("")
    yield add_folder("")


def change(path: str) -> Mutation:
    return Mutation("change", path, lambda root: _write(root / path, f"changed {path}"))


def touch(path: str) -> Mutation:
    return Mutation("touch", path, lambda root: os.utime(root / path, (1, 1), follow_symlinks=False))


def chmod(path: str) -> Mutation:
    def apply(root: Path) -> None:
        (root / path).chmod(stat.S_IMODE((root / path).stat().st_mode) ^ 0o022)

    return Mutation("chmod", path, apply)


def delete(path: str) -> Mutation:
    def apply(root: Path) -> None:
        if (root / path).is_dir() and not (root / path).is_symlink():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink()

    return Mutation("delete", path, apply)


def rename(path: str) -> Mutation:
    return Mutation("rename", path, lambda root: (root / path).rename(root / f"{path}.moved") and None)


def retarget(path: str) -> Mutation:
    def apply(root: Path) -> None:
        (root / path).unlink()
        (root / path).symlink_to("b.md" if path != "ln" else "d/x.txt")

    return Mutation("retarget", path, apply)


def to_folder(path: str) -> Mutation:
    def apply(root: Path) -> None:
        (root / path).unlink()
        (root / path).mkdir()

    return Mutation("to folder", path, apply)


def add_file(path: str) -> Mutation:
    return Mutation("add file in", path, lambda root: _write(root / path / "added.txt", f"added in {path}"))


def add_folder(path: str) -> Mutation:
    return Mutation("add folder in", path, lambda root: (root / path / "added").mkdir())


def _write(path: Path, text: str) -> None:
    path.write_text(text)
