"""In which layers and files do two images differ? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from doit_images.ci.verifying.content import ImageContent, LayerContent, LayerEntry

# What people call the fields of an entry, the weightiest first.
_WORDS = {
    "kind": "kind", "digest": "content", "target": "link", "mode": "permissions", "owner": "owner",
    "attributes": "extended attributes", "time": "time",
}  # fmt: skip
ONLY_FIRST, ONLY_SECOND = "only in the image here", "only in the rebuilt one"
_NONE = LayerContent("", {})


class Difference(NamedTuple):
    """What differs about a path of a layer (counted from 1, the lowest): ``what`` are words such as ``content``."""

    layer: int
    path: str
    what: tuple[str, ...]


def differences(first: ImageContent, second: ImageContent) -> list[Difference]:
    """What differs between two images, layer by layer. A layer that differs in what no entry says, such as their order,
    has no path."""
    found: list[Difference] = []
    for number, (one, other) in enumerate(zip_longest(first.layers, second.layers, fillvalue=_NONE), 1):
        if one.digest != other.digest:
            paths = list(_paths(number, one, other))
            found += paths or [Difference(number, "", ("the order of its files or their times' fractions",))]
    return found


def _paths(number: int, one: LayerContent, other: LayerContent) -> Iterator[Difference]:
    for path in sorted(one.entries.keys() | other.entries.keys()):
        here, there = one.entries.get(path), other.entries.get(path)
        if here is None or there is None:
            yield Difference(number, path, (ONLY_SECOND if here is None else ONLY_FIRST,))
        elif here != there:
            yield Difference(number, path, _fields(here, there))


def _fields(here: LayerEntry, there: LayerEntry) -> tuple[str, ...]:
    return tuple(word for field, word in _WORDS.items() if getattr(here, field) != getattr(there, field))
