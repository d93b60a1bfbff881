"""What would be removed, if caches were pruned now?

Pure. What is needed, what is in use and what is not ours never goes. Of the rest first everything goes that nobody
used for longer than it may stay, then, while it is too much, what is least useful: little work to make again, much
disk, long unused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from doit_images.core.base.formatting import size_text
from doit_images.core.base.timestamps import DAY
from doit_images.stack.layers import Disk, together

_SHOWN = 20  # of a kind, one by one; a build cache has thousands of records


class ItemKind(StrEnum):
    """What disk is spent on, as people read it."""

    IMAGE = "image"
    ENGINE = "engine's build cache"
    BUILDER = "builder's cache"
    LOCAL = "local cache"
    LAYOUT = "handover"
    """A layout through which images travel between engine and builder (``buildkit.oci_transfer``)."""
    OWN_FILE = "log"
    SHARED = "shared result"
    """In the shared registry: no disk of this machine."""


ANY_AGE = -math.inf
"""As the greatest age: all that is reclaimable goes, however new it is."""
BUILD_CACHES = (ItemKind.ENGINE, ItemKind.BUILDER)
"""The kinds that belong to everybody who builds with the same BuildKit."""


@dataclass(frozen=True)
class Item:
    """Something that disk is spent on.

    ``key`` identifies it, ``name`` is what people read. ``parts`` are the bytes that it occupies, by what
    they are: items that share a part occupy it once. ``idle`` is how long nobody used it, ``rebuild_cost`` the seconds
    that making it again would take. ``needed`` is why it must stay. ``above`` are the keys of items that lie on it,
    which must go before it can. ``refs`` are the names by which whoever removes it finds it, where its key is none."""

    key: str
    kind: ItemKind
    name: str
    parts: Mapping[str, int] = field(default_factory=dict)
    idle: float = 0.0
    rebuild_cost: float = 0.0
    needed: str = ""
    above: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Its bytes, shared ones included."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Pruning:
    """What goes, in the order in which it can, each with the bytes that it then frees; and the reclaimable bytes that
    stay."""

    gone: tuple[tuple[Item, int], ...]
    left: int

    @property
    def freed(self) -> int:
        """The bytes that are freed in all."""
        return sum(size for _, size in self.gone)


def choose(items: Sequence[Item], max_age: float, max_size: int) -> Pruning:
    """What goes so that nothing reclaimable is older than ``max_age`` seconds (``ANY_AGE``: nothing stays), and all of
    it together occupies no more than ``max_size`` bytes besides what is needed."""
    disk = _Pruned(items)
    by_age = sorted(disk.free, key=lambda item: -item.idle)
    old = [item for item in by_age if item.idle > max_age]
    disk.remove_all(old)
    by_use = sorted(disk.free, key=usefulness)
    while disk.left > max_size:
        # What frees nothing now may still do so later, when its sharers are gone: it waits for the second look.
        progress = [disk.remove(item) for item in by_use if disk.left > max_size and disk.frees(item)]
        if not any(progress) and not any(disk.remove(item) for item in by_use if disk.left > max_size):
            break
    disk.remove_all(old)  # what was too old, but lay under something that has gone since
    return Pruning(tuple(disk.gone), disk.left)


def usefulness(item: Item) -> float:
    """Seconds of work that a byte of it saves, for how long ago it was last of use."""
    return (1.0 + item.rebuild_cost) / (1.0 + item.size) / (3600.0 + item.idle)


def total(items: Iterable[Item]) -> int:
    """The bytes that items occupy together."""
    return together(item.parts for item in items)


def listed(pairs: Iterable[tuple[Item, int]]) -> list[str]:
    """What goes, in lines for people: the largest one by one, with the bytes that each frees, and the rest together."""
    ordered = sorted(pairs, key=lambda pair: -pair[1])
    lines = [f"  {size_text(freed):>8}  {days(item.idle):>8}  {item.name}" for item, freed in ordered[:_SHOWN]]
    if rest := ordered[_SHOWN:]:
        lines.append(f"  and {len(rest)} more of {size_text(sum(size for _, size in rest))}")
    return lines


def days(seconds: float) -> str:
    """A time in days or hours."""
    return f"{seconds / DAY:.1f} days" if seconds >= DAY else f"{seconds / 3600:.1f} h"


class _Pruned:
    """The items that are still there, and what was removed."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._disk = Disk({item.key: item.parts for item in items})
        self.gone: list[tuple[Item, int]] = []
        self.free = [item for item in items if not item.needed]
        kept = {part for item in items if item.needed for part in item.parts}
        loose = {part: size for item in self.free for part, size in item.parts.items() if part not in kept}
        self.left = sum(loose.values())

    def remove_all(self, items: Sequence[Item]) -> None:
        """Remove these, what lies on top first; what something else lies on stays."""
        while sum(self.remove(item) for item in items):
            pass

    def frees(self, item: Item) -> int:
        """The bytes that its removal would free now."""
        return self._disk.unique(item.key) if item.key in self._disk else 0

    def remove(self, item: Item) -> bool:
        """Remove an item if it is there and nothing lies on it."""
        if item.key not in self._disk or any(key in self._disk for key in item.above):
            return False
        freed = self._disk.remove(item.key)
        self.left -= freed
        self.gone.append((item, freed))
        return True
