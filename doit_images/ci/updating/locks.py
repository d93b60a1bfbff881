"""Which packages does a project lock, and what differs between two states of its locks?

A lock is a requirements file with hashes, most often one (``X.txt``) that is made from what people write (``X.in``), as
pip-tools and ``uv pip compile`` do it; uv's ``uv.lock``; a ``pylock.toml`` (PEP 751); npm's ``package-lock.json``. Of
others it is said that they are not understood.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from doit_images.core.base.errors import UserError

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
UV, NPM = "uv.lock", "package-lock.json"
_PYLOCK = re.compile(r"pylock\.([^.]+\.)?toml")  # PEP 751
_OTHERS = frozenset({
    "Cargo.lock", "Gemfile.lock", "Pipfile.lock", "bun.lock", "composer.lock", "conda-lock.yml", "go.sum", "pdm.lock",
    "pixi.lock", "pnpm-lock.yaml", "poetry.lock", "yarn.lock",
})  # fmt: skip
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
        with suppress(InvalidVersion):  # npm's are of another kind
            return bool(self.before and self.after) and Version(self.after) < Version(self.before)
        return False

    def shown(self, root: Path) -> str:
        """It in words; ``root`` is the folder of the project."""
        return f"{self.name}: {self.before or 'new'} → {self.after or 'gone'} ({self.lock.relative_to(root)})"


def find(root: Path) -> Iterator[Path]:
    """The locks below ``root`` that are understood, sorted."""
    for path in _files(root):
        if path.name in (UV, NPM) or _PYLOCK.fullmatch(path.name) or _is_requirements(path):
            yield path


def left_out(root: Path) -> Iterator[str]:
    """Of the locks below ``root`` that nobody here knows how to make again, a sentence each."""
    for path in _files(root):
        if path.name in _OTHERS:
            yield f"{path.relative_to(root)}: a lock of this kind is not understood"
    for path in find(root):
        if not makes_again(path):
            what = (
                f"{len(pins(path, path.read_text()))} packages are locked, and what makes the lock again is not known"
            )
            yield f"{path.relative_to(root)}: {what}"


def makes_again(lock: Path) -> bool:
    """Whether it is known how this lock is made: by ``uv lock``, or from what people write beside it."""
    return lock.name == UV or lock.with_suffix(".in").is_file()


def _files(root: Path) -> Iterator[Path]:
    """The files below ``root``, sorted; hidden folders and installed packages are left out."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not _HIDDEN.match(name))
        yield from (Path(folder, name) for name in sorted(files))


def _is_requirements(path: Path) -> bool:
    named = path.suffix == ".txt" and (path.name.startswith("requirements") or path.with_suffix(".in").is_file())
    return named and "--hash=" in path.read_text()


def texts(root: Path) -> dict[Path, str]:
    """The text of each lock below ``root``."""
    return {path: path.read_text() for path in find(root)}


def pins(lock: Path, text: str) -> dict[str, str]:
    """The version of each package in a lock, by its normal name (PEP 503), in npm's by its place. ``UserError`` for one
    that cannot be read.

    >>> pins(Path("a.txt"), "Foo.Bar==1.0 \\\\\\n    --hash=sha256:00\\n# via x\\n")
    {'foo-bar': '1.0'}
    """
    if lock.suffix == ".txt":
        return {str(canonicalize_name(name)): version for name, version in _PIN.findall(text)}
    try:
        return _of_npm(json.loads(text)) if lock.name == NPM else _of_toml(lock.name, text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"there is no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"this lock cannot be read: {why}", where=str(lock)) from None


def _of_toml(name: str, text: str) -> dict[str, str]:
    import tomllib

    content = tomllib.loads(text)
    if name == UV:
        return {each["name"]: each["version"] for each in content.get("package", ()) if "registry" in each["source"]}
    from packaging.pylock import Pylock, PylockValidationError

    try:
        return {each.name: str(each.version or "") for each in Pylock.from_dict(content).packages}
    except PylockValidationError as error:
        raise ValueError(error) from None


def _of_npm(content: Mapping[str, Any]) -> dict[str, str]:
    """By the folder that each is installed in, for several versions of one may be."""
    inside = "node_modules/"
    packages = content["packages"].items()
    return {
        place.removeprefix(inside): each["version"]
        for place, each in packages
        if inside in place and not each.get("link")
    }


def names(texts: Mapping[Path, str]) -> list[str]:
    """The normal names of all packages in these locks that are made again here, sorted."""
    return sorted({name for lock, text in texts.items() if makes_again(lock) for name in pins(lock, text)})


def uv_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment with pip's index under uv's name for it, if it does not have that already, and in which uv says
    each cause in one line."""
    index = environ.get("PIP_INDEX_URL")
    return {**({"UV_DEFAULT_INDEX": index} if index else {}), "UV_NO_WRAP": "1", **environ}


def difference(before: Mapping[Path, str], after: Mapping[Path, str]) -> list[LockChange]:
    """What the texts of the locks pin otherwise than before, by lock and name."""
    changes = []
    for lock, text in after.items():
        old, new = pins(lock, before[lock]) if lock in before else {}, pins(lock, text)
        changes += [
            LockChange(lock, name, old.get(name, ""), new.get(name, ""))
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
    return changes
