"""Which packages are installed in an image? Read from its files, as a container sees them: nothing is guessed.

Debian's are in dpkg's own list, Python's in the metadata that every installer leaves (``*.dist-info/METADATA``, PEP 566
and its followers).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.message import Message
from email.parser import BytesParser, HeaderParser
from typing import IO, NamedTuple

from packaging.utils import canonicalize_name

from doit_images.core.engine import archives
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.stack import one_container

_STATUS = re.compile(r"var/lib/dpkg/status(\.d/(?!.*\.md5sums$)[^/]+)?$")
_METADATA = re.compile(r".*/[^/]+\.(dist-info/METADATA|egg-info/PKG-INFO)$")
_RELEASE = re.compile(r"(etc|usr/lib)/os-release$")
_LARGEST = 64 << 20
# The states of dpkg(1) in which a package has no files; the lists of distroless images have no states.
_ABSENT = ("not-installed", "config-files", "half-installed")


class Debian(NamedTuple):
    """A package of a distribution that dpkg manages: ``source`` is what it was built from."""

    name: str
    version: str
    architecture: str
    source: str


class Python(NamedTuple):
    """A Python distribution, by its normal name (PEP 503), and where its metadata lies."""

    name: str
    version: str
    path: str


class Installed(NamedTuple):
    """All packages of an image, sorted, and what its os-release says (``ID``, ``VERSION_CODENAME``)."""

    debian: tuple[Debian, ...]
    python: tuple[Python, ...]
    release: dict[str, str]


def installed(engine: Engine, image_id: str) -> Installed:
    """The packages of an image that the engine holds, from a container that never starts. ``UserError`` where it cannot
    be read."""
    with (
        one_container.created(engine, image_id, "none") as made,  # not every image names a command
        archives.written("export", made, environ=leading_to(engine.address)) as stream,
    ):
        return read(stream)


def read(stream: IO[bytes]) -> Installed:
    """The packages in the archive of a container's files."""
    lists: list[bytes] = []
    python: list[Python] = []
    release: dict[str, str] = {}
    for member, file in archives.files_in(stream):
        path = member.name.removeprefix("./")
        if member.size >= _LARGEST:
            continue
        if _STATUS.match(path):
            lists.append(file.read())
        elif _METADATA.match(path):
            python += _python(BytesParser().parsebytes(file.read(), headersonly=True), path)
        elif _RELEASE.match(path):
            release = _variables(file.read().decode(errors="replace"))
    return Installed(tuple(sorted(set(_debian(lists)))), tuple(sorted(set(python))), release)


def _debian(lists: Iterable[bytes]) -> Iterable[Debian]:
    for text in lists:
        for paragraph in re.split(r"\n\n+", text.decode(errors="replace").strip()):
            package = HeaderParser().parsestr(paragraph)
            name, version = package.get("Package"), package.get("Version")
            state = package.get("Status", "").rpartition(" ")[2]
            if name and version and state not in _ABSENT:
                source = (package.get("Source") or name).partition(" ")[0]
                yield Debian(name, version, package.get("Architecture", ""), source)


def _python(metadata: Message, path: str) -> list[Python]:
    name, version = metadata.get("Name"), metadata.get("Version")
    return [Python(canonicalize_name(name), version, path)] if name and version else []


def _variables(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value.strip("\"'") for name, _, value in pairs}
