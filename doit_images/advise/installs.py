"""Which files does an installation of packages read?

A table of what the tools document. A command that is not in it may read anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

_LOCKS = {
    ("uv", "sync"): ("pyproject.toml", "uv.lock", "uv.toml", ".python-version"),
    ("poetry", "install"): ("pyproject.toml", "poetry.lock", "poetry.toml"),
    ("pipenv", "install"): ("Pipfile", "Pipfile.lock"),
    ("npm", "ci"): ("package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc"),
    ("npm", "install"): ("package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc"),
    ("pnpm", "install"): ("package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ".npmrc"),
    ("pnpm", "fetch"): ("pnpm-lock.yaml", ".npmrc"),
    ("yarn", "install"): ("package.json", "yarn.lock", ".yarnrc", ".yarnrc.yml"),
    ("yarn",): ("package.json", "yarn.lock", ".yarnrc", ".yarnrc.yml"),
    ("go", "mod", "download"): ("go.mod", "go.sum", "go.work", "go.work.sum"),
    ("cargo", "fetch"): ("Cargo.toml", "Cargo.lock", "config.toml"),
    ("bundle", "install"): ("Gemfile", "Gemfile.lock", "*.gemspec"),
    ("composer", "install"): ("composer.json", "composer.lock", "auth.json"),
    ("mvn", "dependency:go-offline"): ("pom.xml", "settings.xml"),
    ("mvn", "dependency:resolve"): ("pom.xml", "settings.xml"),
}
BY_TOOL = {name for names in _LOCKS.values() for name in names}
"""The files that a tool finds by their names, wherever it works."""
# What these do has nothing to do with files of the context.
_NOTHING = {
    *(("apt-get",), ("apt",), ("apk",), ("dnf",), ("microdnf",), ("yum",), ("corepack",), ("set",), ("mkdir",)),
    *(("useradd",), ("groupadd",), ("adduser",), ("addgroup",), ("cd",), ("rm", "-rf", "/var/lib/apt/lists/*")),
}
PIP: tuple[tuple[str, ...], ...] = (
    ("pip", "install"),
    ("pip3", "install"),
    ("uv", "pip", "install"),
    ("uv", "pip", "sync"),
)
"""What installs the lists that it is told."""
_WITH_FILE = ("-r", "--requirement", "-c", "--constraint")
_WITH_VALUE = ("-i", "--index-url", "--extra-index-url", "-t", "--target", "--prefix", "-p", "--python", "--root")
_COMMENT = re.compile(r"^\s*#.*\n?", re.MULTILINE)
_PARTS = re.compile(r"&&|\|\|?|;|\n")


def read_by(instruction: str) -> frozenset[str] | None:
    """The names of the files of a context that may change what a RUN that installs packages gives, as patterns; none
    for packages of the system. None for a RUN that does anything else, or that installs from the context itself.

    >>> sorted(read_by("RUN --mount=type=cache,target=/c pip install -r req/prod.txt"))
    ['prod.txt']
    >>> read_by("RUN apt-get update && apt-get install -y git"), read_by("RUN pip install ."), read_by("RUN make")
    (frozenset(), None, None)
    """
    text = _COMMENT.sub("", instruction).replace("\\\n", " ").strip()
    found: set[str] = set()
    for command in filter(str.strip, _PARTS.split(text.partition(" ")[2])):
        try:
            names = _of([word for word in shlex.split(command) if not re.match(r"--(mount|network|security)=", word)])
        except ValueError:
            return None
        if names is None:
            return None
        found.update(names)
    return frozenset(found)


def _of(words: Sequence[str]) -> Iterable[str] | None:
    while words and re.match(r"\w+=", words[0]):  # a variable for this command alone
        words = words[1:]
    words = words[2:] if words[1:2] == ["-m"] and re.match(r"python[0-9.]*$", words[0]) else words
    if words[2:] and words[0] in ("sh", "bash") and not words[1].startswith("-"):  # a script that runs what follows
        names = _of(words[2:])
        return None if names is None else (*names, PurePosixPath(words[1]).name)
    plain = [word for word in words if not word.startswith("-")]
    for head in PIP:
        if tuple(plain[: len(head)]) == head:
            return _of_pip(words[len(head) :])
    for head, names in _LOCKS.items():
        if tuple(plain[: len(head)]) == head:
            return names if len(head) > 1 or len(plain) == 1 else None
    nothing = any(tuple(words[: len(head)]) == head for head in _NOTHING)
    return () if nothing and not any("./" in word for word in words) else None


def _of_pip(words: Sequence[str]) -> Iterable[str] | None:
    """What its files are, and None where a word is a path to something that is built."""
    names, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option in _WITH_FILE:
            names.append(PurePosixPath(value if equals else rest.pop(0) if rest else "").name)
        elif word in _WITH_VALUE:
            rest[:1] = []
        elif word in ("-e", "--editable") or (not word.startswith("-") and ("/" in word or word.startswith("."))):
            return None
    return names
