"""What is one image made of? The answer of ``resolver``, for all that plan, build and show it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.compose.image import Image
from doit_images.core.inputs.fingerprint import BuildInputs, digest_of_text
from doit_images.core.inputs.ignorefile import IgnoreFile
from doit_images.core.inputs.selection import Selection, shown
from doit_images.core.inputs.tree import FileIndex


class ContextPart(NamedTuple):
    """The files that an image reads from one folder, and the ignore file in force there; ``label`` is "" for its
    context, else the named context. What is not ``sent`` buildx reads, and BuildKit does not get."""

    label: str
    root: Path
    ignore: IgnoreFile
    selection: Selection
    sent: bool = True


@dataclass(frozen=True)
class ImageInputs:
    """What one image is made of.

    ``texts`` are the Dockerfile, ignore files, policy by path, ``parts`` the files of its contexts, ``parents`` maps
    each context or reference that stands for another image of the project to that image's name, ``bases`` each external
    reference to the content that the engine holds under it ("" for none), ``platforms`` are those it is built for and
    ``read_for`` those for which each external reference is read, ``env`` and ``onbuild`` are what it hands on to its
    children (``env_known``: nothing is missing there that an unknown base may set). ``ignore`` is what the ignore file
    of its context says, with a rule more where that one lets our own folder in. ``stages`` are the names of those that
    its target reaches, that one not included. ``mounts`` are the ids of its cache mounts, ``index`` is where its files
    were looked up, ``due`` whether it is built whatever is there. ``problem`` is why it cannot be built, ``private``
    why it must not be: it takes what holds passwords.
    """

    image: Image
    directory: Path
    problem: str = ""
    dockerfile_text: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[ContextPart, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    parent_fingerprints: Mapping[str, str] = field(default_factory=dict)
    parent_tags: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[str, ...] = ()
    read_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remotes: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(default_factory=dict)
    env_known: bool = False
    onbuild: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    ignore: str = ""
    input_digest: str = ""
    fingerprint: str = ""
    index: FileIndex | None = field(default=None, compare=False, repr=False)
    due: bool = False
    private: str = ""

    @property
    def name(self) -> str:
        """The image's name: its service's."""
        return self.image.name

    @property
    def needs(self) -> tuple[str, ...]:
        """The images that come first: its parents, and the one that is the same image under another service's name."""
        return tuple(dict.fromkeys([*self.parents.values(), *filter(None, [self.image.duplicate_of])]))

    def file_dep(self) -> list[str]:
        """Every regular file that goes in, absolute."""
        roots = ((f"{part.root}/", part.selection.files()) for part in self.parts)  # to write a Path out takes its time
        files = [root + path for root, paths in roots for path in paths]
        return [*(path for path in self.texts if path), *files]

    def paths(self) -> list[str]:
        """Files, links and empty folders that go in, relative to the project's folder, sorted."""
        paths = {self._shown(path) for path in self.texts if path}
        for part in self.parts:
            paths |= {self._shown(f"{part.root}/{path}") for path in shown(part.selection.entries())}
        return sorted(paths)

    def build_inputs(self) -> BuildInputs:
        """All that goes in, one by one, in a form that is safe to keep."""
        files = {self._shown(path): f"file 0 {digest_of_text(text)}" for path, text in self.texts.items()}
        for part in self.parts:
            for entry in part.selection.entries():
                path = self._shown(f"{part.root}/{entry.path}")
                files.setdefault(path, f"{entry.kind} {entry.mode:o} {entry.digest}")
        return BuildInputs(files, self.settings, self.bases, self.remotes)

    def _shown(self, path: str) -> str:
        return os.path.relpath(path, self.directory).replace(os.sep, "/") if path else "the inline Dockerfile"
