"""Which bytes do images share, and what would be free without one of them?

A layer is stored once for all images that have it on the same layers below: engines keep layers by their chain.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A layer in its place: the digest of its content, OCI's ChainID, which names it with all below it, its bytes."""

    digest: str
    chain: str
    size: int


def chained(layers: Iterable[tuple[str, int]]) -> list[Layer]:
    """Layers from the base up, given as digests and bytes, in their places."""
    placed: list[Layer] = []
    for digest, size in layers:
        below = f"{placed[-1].chain} {digest}".encode() if placed else b""
        placed.append(Layer(digest, f"sha256:{hashlib.sha256(below).hexdigest()}" if below else digest, size))
    return placed


def parts_of(layers: Iterable[Layer]) -> dict[str, int]:
    """The bytes of an image by the chains of its layers: its parts for ``Disk``."""
    return {layer.chain: layer.size for layer in layers}


class Disk:
    """Things on one disk, by name, each with the bytes of its parts; things that share a part occupy it once."""

    def __init__(self, things: Mapping[str, Mapping[str, int]]) -> None:
        self._parts = dict(things)
        self._users: dict[str, set[str]] = defaultdict(set)
        for name, parts in things.items():
            for part in parts:
                self._users[part].add(name)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    @property
    def together(self) -> int:
        """The bytes that all of them occupy."""
        return together(self._parts.values())

    def users(self, part: str) -> list[str]:
        """The names of those that have this part, in order."""
        return sorted(self._users[part])

    def unique(self, name: str) -> int:
        """The bytes that only this one occupies: what its removal would free."""
        return sum(size for part, size in self._parts[name].items() if len(self._users[part]) == 1)

    def remove(self, name: str) -> int:
        """Take one away; the bytes that this frees."""
        freed = self.unique(name)
        for part in self._parts.pop(name):
            self._users[part].discard(name)
        return freed


def together(things: Iterable[Mapping[str, int]]) -> int:
    """The bytes that things with these parts occupy on one disk."""
    return sum({part: size for parts in things for part, size in parts.items()}.values())
