"""Does an image stay the same with a patch? Both are built, without any cache, and every file is compared.

What differs between two builds of the Dockerfile as it is says nothing about the patch. Where that is when something
was made (logs, bytecode, the linker's cache) it is told, and no more; else nothing is proved, and its step is named.
Compared are content, mode, owner, links, extended attributes and the configuration; times are not.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import takewhile
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from doit_images.advise import debian
from doit_images.advise.needed import needed
from doit_images.advise.patch import Patch
from doit_images.ci.verifying.content import LayerContent, LayerEntry, content_of
from doit_images.core.base.errors import UserError
from doit_images.core.building import aside
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run

_GONE, _OPAQUE, _LINK = ".wh.", ".wh..wh..opq", "hard link"
Tree = Mapping[str, LayerEntry]
_DATED = re.compile(
    r"var/log/.*|var/cache/(ldconfig/aux-cache|debconf/.*)|var/lib/dpkg/status-old|etc/shadow-?"
    r"|(.*/)?__pycache__/[^/]*\.pyc|root/\.npm/_logs/.*"
)
"""What holds when it was made: the sources of bytecode are compared themselves."""
_SHELL = re.compile(r"(?<=^RUN )/bin/sh -c | # buildkit$")


class Verdict(StrEnum):
    """What the comparison came to."""

    SAME = "same"
    SAME_BUT = "same but for"
    """Some of what the rule says it removes is gone, nothing else differs, and no test fails that passed before."""
    NOT_PROVED = "not proved"
    """Nothing else differs, but a step gave other bytes in the two builds without the patch."""
    DIFFERS = "differs"
    FAILS = "fails"
    """With the patch it cannot be built."""


class Proof(NamedTuple):
    """The verdict on a patch, the paths that differ with it (or why it fails, or the steps because of which it is not
    proved), those that differ from build to build without it, those that are gone as a rule says, each with the reason,
    and, where some are, what came of each of the image's tests (a failure that the patch makes is in ``differs``)."""

    verdict: Verdict
    differs: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    removed: Mapping[str, str] = {}
    tests: Mapping[str, str] = {}


class Held(NamedTuple):
    """What an image holds: its files as a container sees them, its configuration, and the layers of which it is made,
    the lowest first, with the ``steps`` that made them; and by digests of files what was seen in them (``_look``)."""

    files: Tree
    config: Mapping[str, Any]
    layers: Sequence[LayerContent] = ()
    steps: Sequence[str] = ()
    looked: Mapping[str, object] = {}


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
    """The verdict on an image by what it was ``before``, and by the paths that are meant to be gone (packages, where it
    is no path): if the Dockerfile removed there what the base has, that may be back."""
    first, again = before
    found = [
        path
        for path in _differ(first.files, patched.files)
        if not _is_chance(first.files.get(path), again.files.get(path), patched.files.get(path))
    ]
    pairs = takewhile(lambda pair: pair[0].digest == pair[1].digest, zip(first.layers, patched.layers, strict=False))
    base = files_of(one for one, _ in pairs)
    known = [debian.Held(each, {**first.looked, **patched.looked}) for each in (first.files, patched.files, base)]
    packages = debian.gone(known[0], known[1], known[2], [name for name in removes if "/" not in name])
    paths = {path: why for path, why in removes.items() if "/" in path}
    removed = {path: why for path in found if path not in patched.files and (why := _meant(first.files, path, paths))}
    removed |= {path: packages[path] for path in found if path in packages}
    back = [path for path in found if path not in first.files and base.get(path) == patched.files[path]]
    removed |= {path: f"{why}, as the base has it" for path in back if (why := _meant(base, path, paths))}
    differs = [path for path in found if path not in removed]
    differs += _broken(patched, [path for path in removed if path not in patched.files])
    if first.config != patched.config:
        differs.append("the configuration")
    unsteady = tuple(_differ(first.files, again.files))
    if not differs and (unproved := _unproved(before, [path for path in unsteady if path not in removed])):
        return Proof(Verdict.NOT_PROVED, unproved, unsteady, removed)
    verdict = Verdict.DIFFERS if differs else Verdict.SAME_BUT if removed else Verdict.SAME
    return Proof(verdict, tuple(differs), unsteady, removed)


def _broken(patched: Held, gone: Sequence[str]) -> list[str]:
    """What stays and needs what is gone, in words: a library by its name, wherever that was, or what runs a script."""
    names = {PurePosixPath(path).name for path in gone} | {f"/{path}" for path in gone}
    found = []
    for path, entry in patched.files.items():
        needs = patched.looked.get(entry.digest) if entry.digest else None
        if entry.kind == "link":
            needs = (posixpath.normpath(posixpath.join("/", posixpath.dirname(path), entry.target)),)
        if isinstance(needs, tuple):
            found += [f"{path} needs {need}" for need in needs if need in names]
    return found


def _look(path: str, file: IO[bytes]) -> object | None:
    """The text of what the package manager says, of other files what they need."""
    return file.read().decode(errors="replace") if debian.KEPT.fullmatch(path) else needed(file) or None


def _unproved(before: Before, unsteady: Iterable[str]) -> tuple[str, ...]:
    """The steps that gave other bytes in the second build, each with the first such path; when something was made
    counts for nothing."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in unsteady:
        if not _DATED.fullmatch(path):
            held = before.first if path in before.first.files else before.again
            steps = [step for step, layer in zip(held.steps, held.layers, strict=False) if path in layer.entries]
            found[_SHELL.sub("", steps[-1]) if steps else "a step"].append(path)
    return tuple(
        f"{step}: {paths[0]}{f' and {len(paths) - 1} more' * (len(paths) > 1)}" for step, paths in found.items()
    )


def _is_chance(one: LayerEntry | None, again: LayerEntry | None, other: LayerEntry | None) -> bool:
    """Whether the ``other`` differs from the ``one`` in nothing but what also differs ``again``, as its content."""
    if not one or not again or not other:
        return other == again
    return all(a == c or a != b for a, b, c in zip(one, again, other, strict=True))


def _meant(files: Tree, path: str, removes: Mapping[str, str]) -> str:
    """Why a path is gone: it is one of these or below, or a folder that was there for one of these alone; or ``""``."""
    whole = PurePosixPath("/", path)
    for folder, why in removes.items():
        held = files[path].kind == "folder" and PurePosixPath(folder).is_relative_to(whole)
        if held or whole.is_relative_to(folder):
            return why
    return ""


def files_of(layers: Iterable[LayerContent]) -> Tree:
    """What a container sees of these layers, the lowest first: without what a later one removes, and without times.
    Hard links are the file that they lead to, and say the first of its names."""
    seen: dict[str, LayerEntry] = {}
    inodes: dict[str, tuple[int, str]] = {}  # of a file with several names: its layer, and its name there
    for number, layer in enumerate(layers):
        for path in layer.entries:
            name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
            if name == _OPAQUE:
                _remove(seen, folder, itself=False)
            elif name.startswith(_GONE):
                _remove(seen, str(PurePosixPath(folder) / name.removeprefix(_GONE)), itself=True)
        links = {path: each.target.removeprefix("./") for path, each in layer.entries.items() if each.kind == _LINK}
        for path, entry in layer.entries.items():
            if not PurePosixPath(path).name.startswith(_GONE):
                if entry.kind != "folder" and path in seen and seen[path].kind == "folder":
                    _remove(seen, path, itself=True)
                first = links.get(path, path)
                inodes[path] = (number, first)
                seen[path] = layer.entries.get(first, seen.get(first, entry))._replace(time=0)
    names: dict[tuple[int, str], list[str]] = defaultdict(list)
    for path in sorted(seen):
        names[inodes[path]].append(path)
    return {path: _linked(entry, names[inodes[path]]) for path, entry in seen.items()}


def _remove(seen: dict[str, LayerEntry], path: str, *, itself: bool) -> None:
    for each in [each for each in seen if each.startswith(f"{path}/") or (itself and each == path)]:
        del seen[each]


def _linked(entry: LayerEntry, names: Sequence[str]) -> LayerEntry:
    return entry._replace(attributes=(*entry.attributes, (_LINK, names[0]))) if names[1:] else entry


def _differ(one: Tree, other: Tree) -> dict[str, None]:
    return dict.fromkeys(path for path in sorted({*one, *other}) if one.get(path) != other.get(path))


def _held(run: Run, inputs: ImageInputs) -> Held:
    with aside.image(run, inputs, inputs.dockerfile_text, ["--no-cache"], called="advise") as ref:
        content = content_of(ref, leading_to(run.engine.address), _look)
        looked = {digest: seen for layer in content.layers for digest, seen in layer.looked.items()}
        return Held(
            files_of(content.layers), aside.configuration(run.engine, ref), content.layers, content.steps, looked
        )
