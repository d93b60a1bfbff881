"""Where is a checkout, and is that another checkout of the same project? Git's own files tell; git is not run."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_USER = re.compile(r"(?<=://)[^/]*@")
_ORIGIN = re.compile(r'^\[remote "origin"\]\s*\n(?:[ \t]+.*\n)*?[ \t]+url[ \t]*=(.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A project's folder, the root of the checkout that it is in, and the git repository of that (None: there is none).

    Links are followed, so that one folder is one place however it is called. A worktree has the repository of the
    checkout that it was made from; without git a checkout is the project's folder.
    """

    directory: Path
    root: Path
    repository: Path | None = None

    @classmethod
    def of(cls, directory: Path) -> Place:
        """The place of this folder, which may be gone."""
        directory = Path(os.path.realpath(directory))
        for root in (directory, *directory.parents):
            if repository := _repository(root / ".git"):
                return cls(directory, root, repository)
        return cls(directory, directory)

    @property
    def there(self) -> bool:
        """Whether the folder is there."""
        return self.directory.is_dir()

    def is_twin(self, other: Place) -> bool:
        """Whether the other one is the same folder of another checkout, as far as places can tell: two folders of one
        checkout, or one within the other, are two projects."""
        if self.root == other.root or self.inner != other.inner:
            return False
        nested = self.root in other.root.parents or other.root in self.root.parents
        return not nested or (self.repository is not None and other.repository is not None)

    def is_relative(self, other: Place) -> bool:
        """Whether both are checkouts of one git repository, or of clones of one, and the same folder of it."""
        return self.repository is not None and self.origin == other.origin and self.is_twin(other)

    @property
    def origin(self) -> str:
        """Which repository this is of: where it was cloned from, without who did it and with which token, or itself; ""
        without git."""
        if self.repository is None:
            return ""
        address = str(self.repository)
        with contextlib.suppress(OSError, ValueError):
            if cloned := _ORIGIN.search((self.repository / "config").read_text()):
                address = cloned[1].strip()
        if address.startswith(("/", ".")):  # what it was cloned from may itself be reached by a link
            address = os.path.realpath(self.repository.parent / address)
        return _USER.sub("", address).rstrip("/").removesuffix(".git").rstrip("/")

    @property
    def inner(self) -> Path:
        """Where in its checkout the project's folder is."""
        return self.directory.relative_to(self.root)


def _repository(path: Path) -> Path | None:
    """The folder of the repository that a ``.git`` stands for, be it that folder or a file that names it."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_dir():
            return path if (path / "HEAD").is_file() else None
        text = path.read_text()
        if text.startswith("gitdir:"):
            folder = path.parent / text.removeprefix("gitdir:").strip()
            common = folder / "commondir"
            if common.is_file():
                folder = folder / common.read_text().strip()
            return Path(os.path.realpath(folder))
    return None
