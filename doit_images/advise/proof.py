"""Does an image stay the same with a patch? Both are built, without any cache, and every file is compared.

What differs between two builds of the Dockerfile as it is says nothing about the patch: it is told, and no more.
Compared are content, mode, owner, links, extended attributes and the configuration; times are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    SAME_BUT = "same but for"
    """Some of what the rule says it removes is gone, and nothing else differs."""
    DIFFERS = "differs"
    FAILS = "fails"
    """With the patch it cannot be built."""


class Proof(NamedTuple):
    """The verdict on a patch, the paths that differ with it (or why it fails), those that differ from build to
    build without it, and those that are gone as a rule says, each with the reason."""

    verdict: Verdict
    differs: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    removed: Mapping[str, str] = {}


class Held(NamedTuple):
    """What an image holds: its files as a container sees them, and its configuration."""

    files: Tree
    config: Mapping[str, Any]


class Before(NamedTuple):
    """An image as it is, built twice: what differs between the two is chance."""

    first: Held
    again: Held


def before(run: Run, inputs: ImageInputs) -> Before:
    """Build an image twice as it is, without any cache. ``UserError`` where it cannot be built."""
    return Before(*(_held(run, inputs) for _ in range(2)))


def prove(run: Run, inputs: ImageInputs, before: Before, patches: Sequence[Patch]) -> Proof:
    """Build an image as it is made with these patches (``inputs``), without any cache, and compare it with the image as
    it was ``before`` them all."""
    try:
        patched = _held(run, inputs)
    except UserError as error:
        return Proof(Verdict.FAILS, (str(error),))
    return compared(before, patched, {path: why for patch in patches for path, why in patch.removes.items()})


def compared(before: Before, patched: Held, removes: Mapping[str, str]) -> Proof:
    """The verdict on an image by what it was ``before``, and by the paths that are meant to be gone."""
    first, again = before
    unsteady = _differ(first.files, again.files)
    found = [path for path in _differ(first.files, patched.files) if path not in unsteady]
    removed = {path: why for path in found if path not in patched.files and (why := _meant(first.files, path, removes))}
    differs = [path for path in found if path not in removed]
    if first.config != patched.config:
        differs.append("the configuration")
    verdict = Verdict.DIFFERS if differs else Verdict.SAME_BUT if removed else Verdict.SAME
    return Proof(verdict, tuple(differs), tuple(unsteady), removed)


def _meant(files: Tree, path: str, removes: Mapping[str, str]) -> str:
    """Why a path is gone: it is one of these or below, or a folder that was there for one of these alone; or ``""``."""
    whole = PurePosixPath("/", path)
    for folder, why in removes.items():
        held = files[path].kind == "folder" and PurePosixPath(folder).is_relative_to(whole)
        if held or whole.is_relative_to(folder):
            return why
    return ""


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


def _held(run: Run, inputs: ImageInputs) -> Held:
    with aside.image(run, inputs, inputs.dockerfile_text, ["--no-cache"], called="advise") as ref:
        content = content_of(ref, leading_to(run.engine.address))
        return Held(files_of(content.layers), aside.configuration(run.engine, ref))
