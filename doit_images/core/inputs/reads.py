"""What does an image read? The answer that ``dockerfile.reads`` gives, as plain data that a cache can keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WHOLE = "/"
"""The source that means a whole context."""


class Copy(NamedTuple):
    """One thing that reads files of a context.

    ``context`` is ``""`` for the image's own, else the name of a named one. ``sources`` are expanded, patterns as
    BuildKit takes them; ``"/"`` is the whole context. ``instruction`` is ``COPY``, ``ADD``, ``RUN --mount`` or
    ``FROM``. Of ``optional`` sources not every BuildKit reads each: those that are not there are passed over.
    """

    context: str
    sources: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    parents: bool = False
    line: int = 0
    instruction: str = "COPY"
    optional: bool = False

    @property
    def literal(self) -> bool:
        """Are ``*`` and ``?`` in the sources plain characters?"""
        return self.instruction not in ("COPY", "ADD")


class External(NamedTuple):
    """An image that is neither a stage nor a named context: its familiar name, and what ``FROM --platform`` says
    (``""``: the target's)."""

    ref: str
    platform: str
    line: int


class Remote(NamedTuple):
    """A URL or git source of ``ADD``: its expanded ``text``, and whether that fixes what is fetched."""

    text: str
    pinned: bool
    line: int


class Reads(NamedTuple):
    """Everything that a target reads, besides the text of the Dockerfile.

    ``images`` are the bases and sources that are neither stages nor named contexts.
    ``contexts`` are the named contexts it reaches; for each of them that is a folder, ``copies`` say what of it.
    ``args`` are the names whose value matters: build args that a reached stage declares or its ``FROM`` uses.
    ``mounts`` are the ids of cache mounts. ``syntax`` is the frontend's image. ``env`` (``None``: a value that is not
    certain) and ``onbuild`` are what an image built from this target hands on to a Dockerfile that starts ``FROM`` it.
    ``stages`` are the names of the other stages that the target reaches.
    ``read_for`` says for which platforms each image or named context is read. ``alike`` is whether all platforms hand
    on the same variables.
    """

    copies: tuple[Copy, ...] = ()
    contexts: tuple[str, ...] = ()
    images: tuple[External, ...] = ()
    remotes: tuple[Remote, ...] = ()
    args: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    syntax: str = ""
    env: Mapping[str, str | None] = {}
    onbuild: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    read_for: Mapping[str, tuple[str, ...]] = {}
    alike: bool = True

    @property
    def externals(self) -> tuple[str, ...]:
        """The references of all ``images``, each once."""
        return tuple(dict.fromkeys(image.ref for image in self.images))

    def to_json(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        parts = {name: [each._asdict() for each in getattr(self, name)] for name in ("copies", "images", "remotes")}
        return self._asdict() | parts

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Reads:
        """What ``to_json`` gave; anything else raises ``KeyError`` or ``TypeError``."""
        copies = (
            Copy(**{**each, "sources": tuple(each["sources"]), "exclude": tuple(each["exclude"])})
            for each in raw["copies"]
        )
        lists = {
            name: tuple(raw[name]) for name in ("contexts", "args", "secrets", "ssh", "mounts", "onbuild", "stages")
        }
        return cls(
            copies=tuple(copies),
            images=tuple(External(**each) for each in raw["images"]),
            remotes=tuple(Remote(**each) for each in raw["remotes"]),
            syntax=raw["syntax"],
            env=raw["env"],
            read_for={name: tuple(some) for name, some in raw["read_for"].items()},
            alike=raw["alike"],
            **lists,
        )


def unseen(contexts: Iterable[str], folders: Iterable[str], args: Iterable[str]) -> Reads:
    """What a Dockerfile reads that only a build can see: all of these named contexts (those that are ``folders`` as a
    whole) and build args."""
    copies = tuple(Copy(name, (WHOLE,), instruction="FROM") for name in folders)
    return Reads(copies=copies, contexts=tuple(sorted(contexts)), args=tuple(sorted(args)))


def joined(parts: Sequence[Reads]) -> Reads:
    """What an image reads that is built for several platforms: all that any of them reads."""
    first, *others = parts
    if not others:
        return first
    names = ("copies", "contexts", "images", "remotes", "args", "secrets", "ssh", "mounts", "onbuild")
    merged: dict[str, Any] = {
        name: tuple(dict.fromkeys(each for part in parts for each in getattr(part, name))) for name in names
    }
    read_for: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for name, some in part.read_for.items():
            read_for[name] = tuple(dict.fromkeys((*read_for.get(name, ()), *some)))
    alike = all(part.alike and part.env == first.env for part in others)
    return first._replace(**merged, read_for=read_for, alike=alike)
