"""Which changes are made to the files of a project?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from doit_images.core.base import files
from doit_images.core.base.errors import UserError


class FileChange(NamedTuple):
    """A file and its text before and after; None where it does not exist."""

    path: Path
    before: str | None
    after: str | None
    mode: int = 0o666

    def lines(self) -> list[str]:
        """The lines that are added or removed, as a diff shows them."""
        import difflib

        before, after = ((text or "").splitlines() for text in (self.before, self.after))
        diff = difflib.unified_diff(before, after, n=0, lineterm="")
        return [line for line in diff if not line.startswith(("---", "+++", "@@"))]

    def write(self) -> None:
        """Write the new text; ``mode`` is for a new file. Raises ``OSError`` or ``UserError``."""
        if self.after is None:
            self.path.unlink()
        elif self.before is None:
            files.write(self.path, self.after, self.mode)
        else:  # which may be a link, and has rights of its own
            self.path.write_bytes(self.after.encode())


def read(path: Path) -> str | None:
    """The text of a file with its line ends; None if there is no file. ``UserError`` if it is not UTF-8 text."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError("this file is not UTF-8 text", where=str(path), remedy="see docs/your-project.md") from None


def cut(path: Path, without: Callable[[str], str]) -> Iterable[FileChange]:
    """The change that removes our lines from a file, and the file if nothing else was in it."""
    before = read(path)
    after = before and without(before)
    if before and after != before:
        yield FileChange(path, before, after or None)


def told(changes: Iterable[FileChange], folder: Path) -> str:
    """The changes in words, with their lines; of a long file only how many."""
    import os

    said = []
    for change in changes:
        lines = change.lines()
        name = os.path.relpath(change.path, folder)
        what = "goes" if change.after is None else "new" if change.before is None else "changed"
        said.append(f"{name}: {what}, {len(lines)} line{'s' * (len(lines) != 1)}")
        said += [f"    {line}" for line in lines if len(lines) <= 20]
    return "\n".join(said)
