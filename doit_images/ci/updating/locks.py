"""Which packages does a project lock, and what differs between two states of its locks?

A lock is a requirements file with hashes (``X.txt``) that is made from one that people write (``X.in``), as pip-tools
and ``uv pip compile`` do it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import Version

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_HIDDEN = re.compile(r"\.|node_modules$|__pycache__$")


class LockChange(NamedTuple):
    """A package that a lock pins otherwise than before; "" for a version that it did not, or does not, pin."""

    lock: Path
    name: str
    before: str
    after: str

    @property
    def lower(self) -> bool:
        """Whether it is an older release than before."""
        return bool(self.before and self.after) and Version(self.after) < Version(self.before)

    def shown(self, root: Path) -> str:
        """It in words; ``root`` is the folder of the project."""
        return f"{self.name}: {self.before or 'new'} → {self.after or 'gone'} ({self.lock.relative_to(root)})"


def find(root: Path) -> Iterator[Path]:
    """The locks below ``root``, sorted; hidden folders and installed packages are left out."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not _HIDDEN.match(name))
        for name in sorted(files):
            path = Path(folder, name)
            if name.endswith(".txt") and path.with_suffix(".in").is_file() and "--hash=" in path.read_text():
                yield path


def texts(root: Path) -> dict[Path, str]:
    """The text of each lock below ``root``."""
    return {path: path.read_text() for path in find(root)}


def pins(text: str) -> dict[str, str]:
    """The version of each package in a lock, by its normal name (PEP 503).

    >>> pins("Foo.Bar==1.0 \\\\\\n    --hash=sha256:00\\n# via x\\n")
    {'foo-bar': '1.0'}
    """
    return {str(canonicalize_name(name)): version for name, version in _PIN.findall(text)}


def names(texts: Mapping[Path, str]) -> list[str]:
    """The normal names of all packages in these locks, sorted."""
    return sorted({name for text in texts.values() for name in pins(text)})


def uv_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment with pip's index under uv's name for it, if it does not have that already, and in which uv says
    each cause in one line."""
    index = environ.get("PIP_INDEX_URL")
    return {**({"UV_DEFAULT_INDEX": index} if index else {}), "UV_NO_WRAP": "1", **environ}


def difference(before: Mapping[Path, str], after: Mapping[Path, str]) -> list[LockChange]:
    """What the texts of the locks pin otherwise than before, by lock and name."""
    changes = []
    for lock, text in after.items():
        old, new = pins(before.get(lock, "")), pins(text)
        changes += [
            LockChange(lock, name, old.get(name, ""), new.get(name, ""))
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
    return changes
