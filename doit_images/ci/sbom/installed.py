"""Which packages are installed in an image? Read from its files, as a container sees them: nothing is guessed.

Each package manager leaves a list, or a file for each package, in its own format. Signs of packages that nothing here
can read are named, so that nobody takes the packages that are found for all of them.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from email.parser import BytesParser, HeaderParser
from io import StringIO
from typing import IO, NamedTuple

from dotenv import dotenv_values
from packaging.utils import canonicalize_name

from doit_images.ci.sbom import program, rpm
from doit_images.core.engine import archives
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.stack import one_container

_RELEASE = re.compile(r"(etc|usr/lib)/os-release$")
_LARGEST = 64 << 20
# The states of dpkg(1) in which a package has no files; the lists of distroless images have no states.
_ABSENT = ("not-installed", "config-files", "half-installed")
_UNREADABLE, _NOTHING = "what cannot be read", "anything: it has no list that is understood"


class Package(NamedTuple):
    """A package: ``kind`` is its type in package URLs, ``name`` begins with its scope or path, ``source`` is the source
    package, where its manager names one, ``epoch`` is rpm's."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    source: str = ""
    epoch: str = ""


class Installed(NamedTuple):
    """The packages of an image, each with the files that list it; its os-release (``ID``, ``VERSION_CODENAME``); and
    signs of packages that could not be read. All sorted."""

    packages: Mapping[Package, tuple[str, ...]]
    release: Mapping[str, str]
    unknown: tuple[str, ...] = ()


def installed(engine: Engine, image_id: str) -> Installed:
    """The packages of an image that the engine holds, from a container that never starts. ``UserError`` where it cannot
    be read."""
    with (
        one_container.created(engine, image_id, "none") as made,  # not every image names a command
        archives.written("export", made, environ=leading_to(engine.address)) as stream,
    ):
        return read(stream)


def read(stream: IO[bytes]) -> Installed:
    """The packages in the archive of a container's files. Raises ``tarfile.TarError`` for another file."""
    found = _Found()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            found.look(archive, member, member.name.removeprefix("./"))
    for path in found.databases:
        found.add(path, (Package("rpm", *each) for each in rpm.packages(found.databases, path)))
    packages = {package: tuple(sorted(paths)) for package, paths in sorted(found.packages.items())}
    listed = sorted((what, sorted(paths)) for what, paths in found.unknown.items())
    unknown = [f"{what}: {paths[0]}{f' and {len(paths) - 1} more' if paths[1:] else ''}" for what, paths in listed]
    return Installed(packages, found.release, tuple(unknown) if packages or unknown else (_NOTHING,))


class _Found:
    """What was found so far: packages and signs of packages, each with its files, and rpm's databases."""

    def __init__(self) -> None:
        self.packages = defaultdict[Package, set[str]](set)
        self.unknown = defaultdict[str, list[str]](list)
        self.release: dict[str, str] = {}
        self.databases: dict[str, bytes] = {}

    def look(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        """Read a file if it tells of packages. A second name of a file has no content of its own."""
        reader, file = _reader(path), archive.extractfile(member) if member.isfile() else None
        if reader and (member.size >= _LARGEST or (member.islnk() and not _reader(member.linkname))):
            self.unknown[_UNREADABLE].append(path)
        elif file is None:
            return
        elif reader:
            self.add(path, reader(file.read()))
        elif rpm.FILE.fullmatch(path):
            self.databases[path] = file.read()
        elif _RELEASE.fullmatch(path):
            text = StringIO(file.read().decode(errors="replace"))
            self.release = {name: value or "" for name, value in dotenv_values(stream=text, interpolate=False).items()}
        elif sign := next((what for form, what in _SIGNS.items() if form.search(path)), ""):
            self.unknown[sign].append(path)
        else:
            modules, sign = program.modules(file)
            self.add(path, (Package("golang", *each) for each in modules))
            if sign:
                self.unknown[sign].append(path)

    def add(self, path: str, found: Iterator[Package]) -> None:
        """Add the packages that are found in a file while it is read."""
        try:
            for each in list(found):
                self.packages[each].add(path)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self.unknown[_UNREADABLE].append(path)


def _debian(text: bytes) -> Iterator[Package]:
    for package in map(HeaderParser().parsestr, _paragraphs(text)):
        name, version = package["Package"] or _missing("a name"), package["Version"]
        state = package.get("Status", "").rpartition(" ")[2]
        if version and state not in _ABSENT:
            source = (package["Source"] or name).partition(" ")[0]
            yield Package("deb", name, version, package.get("Architecture", ""), source)


def _alpine(text: bytes) -> Iterator[Package]:
    for paragraph in _paragraphs(text):
        fields = dict(line.partition(":")[::2] for line in paragraph.splitlines())  # big and small letters differ
        yield Package("apk", fields["P"], fields["V"], fields.get("A", ""), fields.get("o", ""))


def _paragraphs(text: bytes) -> list[str]:
    return [each for each in re.split(r"\n\n+", text.decode(errors="replace").strip()) if each]


def _python(text: bytes) -> Iterator[Package]:
    metadata = BytesParser().parsebytes(text, headersonly=True)
    version = metadata["Version"] or _missing("a version")
    yield Package("pypi", canonicalize_name(metadata["Name"] or _missing("a name")), version)


def _missing(what: str) -> str:
    raise ValueError(f"a package without {what}")


def _npm(text: bytes) -> Iterator[Package]:
    package = json.loads(text)
    if package.get("name") and package.get("version"):  # else it says of a part of a package of which kind it is
        yield Package("npm", str(package["name"]), str(package["version"]))


_READERS: Mapping[re.Pattern[str], Callable[[bytes], Iterator[Package]]] = {
    re.compile(r"var/lib/dpkg/status(\.d/(?!.*\.md5sums$)[^/]+)?"): _debian,
    re.compile(r"(usr/)?lib/apk/db/installed"): _alpine,
    re.compile(r".*/([^/]+\.(dist-info/METADATA|egg-info(/PKG-INFO)?)|EGG-INFO/PKG-INFO)"): _python,
    re.compile(r"(.*/)?node_modules/(@[^/]+/)?[^/@.][^/]*/package\.json"): _npm,
}


def _reader(path: str) -> Callable[[bytes], Iterator[Package]] | None:
    return next((reader for form, reader in _READERS.items() if form.fullmatch(path)), None)


# Signs of packages that nothing here reads.
_SIGNS = {
    re.compile(r"\.(jar|war|ear)$"): "Java",
    re.compile(r"/specifications/([^/]+/)?[^/]+\.gemspec$"): "Ruby",
    re.compile(r"/composer/installed\.json$"): "PHP",
    re.compile(r"\.deps\.json$"): ".NET",
    re.compile(r"/library/[^/]+/DESCRIPTION$"): "R",
    re.compile(r"\.egg$"): "Python's eggs",
    re.compile(r"(^|/)conda-meta/[^/]+\.json$"): "conda",
    re.compile(r"(^|/)\.pnp\.c?js$"): "Yarn's archives",
    re.compile(r"^nix/store/[^/]+/"): "Nix",
    re.compile(r"/rpm/Packages(\.db)?$"): "rpm's database in an older form",
    re.compile(r"/pacman/local/[^/]+/desc$|/opkg/status$|/lib/portage/"): "another manager of packages",
}
