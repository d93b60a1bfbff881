"""Does an image stay the same with a patch? Both are built, without any cache, and every file is compared.

What differs between two builds of the Dockerfile as it is says nothing about the patch: it is told, and no more.
Compared are content, mode, owner, links, extended attributes and the configuration; times are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from doit_images.advise.patch import Patch
from doit_images.ci.verifying.content import LayerContent, LayerEntry, content_of
from doit_images.core.base.errors import UserError
from doit_images.core.building import aside
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run

_GONE, _OPAQUE = ".wh.", ".wh..wh..opq"
Tree = Mapping[str, LayerEntry]


class Verdict(StrEnum):
    """What the comparison came to."""

    SAME = "same"
    DIFFERS = "differs"
    FAILS = "fails"
    """With the patch it cannot be built."""


class Proof(NamedTuple):
    """The verdict on a patch, the paths that differ with it (or why it fails), and those that differ from build to
    build without it."""

    verdict: Verdict
    differs: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()


def prove(run: Run, inputs: ImageInputs, patch: Patch) -> Proof:
    """Build an image twice as it is and once with a patch, each without any cache, and compare. ``UserError`` where it
    cannot be built as it is."""
    first, again = (_held(run, inputs, inputs.dockerfile_text) for _ in range(2))
    try:
        patched = _held(run, inputs, patch.text)
    except UserError as error:
        return Proof(Verdict.FAILS, (str(error),))
    return compared(first, again, patched)


class Held(NamedTuple):
    """What an image holds: its files as a container sees them, and its configuration."""

    files: Tree
    config: Mapping[str, Any]


def compared(first: Held, again: Held, patched: Held) -> Proof:
    """The verdict on the third, by what differs between the first two."""
    unsteady = _differ(first.files, again.files)
    differs = [path for path in _differ(first.files, patched.files) if path not in unsteady]
    if first.config != patched.config:
        differs.append("the configuration")
    return Proof(Verdict.DIFFERS if differs else Verdict.SAME, tuple(differs), tuple(unsteady))


def files_of(layers: Iterable[LayerContent]) -> Tree:
    """What a container sees of these layers, the lowest first: without what a later one removes, and without times."""
    seen: dict[str, LayerEntry] = {}
    for layer in layers:
        for path in layer.entries:
            name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
            if name == _OPAQUE:
                _remove(seen, folder, itself=False)
            elif name.startswith(_GONE):
                _remove(seen, str(PurePosixPath(folder) / name.removeprefix(_GONE)), itself=True)
        for path, entry in layer.entries.items():
            if not PurePosixPath(path).name.startswith(_GONE):
                if entry.kind != "folder" and path in seen and seen[path].kind == "folder":
                    _remove(seen, path, itself=True)
                seen[path] = entry._replace(time=0)
    return {path: _resolved(entry, seen) for path, entry in seen.items()}


def _remove(seen: dict[str, LayerEntry], path: str, *, itself: bool) -> None:
    for each in [each for each in seen if each.startswith(f"{path}/") or (itself and each == path)]:
        del seen[each]


def _resolved(entry: LayerEntry, seen: Tree) -> LayerEntry:
    """A hard link is the file that it leads to: which of its names comes first is chance."""
    return seen.get(entry.target.removeprefix("./"), entry) if entry.kind == "hard link" else entry


def _differ(one: Tree, other: Tree) -> dict[str, None]:
    return dict.fromkeys(path for path in sorted({*one, *other}) if one.get(path) != other.get(path))


def _held(run: Run, inputs: ImageInputs, text: str) -> Held:
    with aside.image(run, inputs, text, ["--no-cache"], called="advise") as ref:
        content = content_of(ref, leading_to(run.engine.address))
        return Held(files_of(content.layers), aside.configuration(run.engine, ref))
