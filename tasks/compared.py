"""Do the stores hold after a switch what they held before it? By a count and a checksum of each part.

The script of a store (``x-backup``, see ``stack.stores``) answers ``data`` with a line for each part: its name, how
many things it has, a checksum over them and, where it is to end, when (milliseconds since the epoch).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from doit_images.core.base import files
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose
from doit_images.stack import stores
from doit_images.stack.stores import Store

_FILE = "parts.json"
"""Beside the data in an archive."""


@dataclass(frozen=True)
class DataPart:
    """A part of a store's data; ``until``: 0 for one that has no end."""

    name: str
    count: int
    checksum: str
    until: int = 0


def held(compose: Compose, store: Store) -> list[DataPart]:
    """What a store that runs holds. ``UserError`` where it cannot tell."""
    return parts(stores.said(compose, store, "data"))


def keep(archive: Path, held: Mapping[str, Sequence[DataPart]]) -> None:
    """Keep with an archive what each store held, by its service. ``UserError`` where it cannot be written."""
    files.write_json(archive / _FILE, {name: [asdict(part) for part in some] for name, some in held.items()})


def kept(archive: Path) -> dict[str, list[DataPart]]:
    """What ``keep`` was given. ``OSError`` or ``ValueError`` where it cannot be read."""
    return {
        name: [DataPart(**part) for part in some] for name, some in json.loads(files.content(archive / _FILE)).items()
    }


def parts(said: str) -> list[DataPart]:
    """The parts in what a script says; ``UserError`` if that is something else."""
    try:
        return [
            DataPart(name, int(count), checksum, *map(int, until)) for name, count, checksum, *until in _words(said)
        ]
    except (ValueError, TypeError) as error:
        raise UserError(f"what is there cannot be counted: {error}") from None


def _words(said: str) -> Iterable[list[str]]:
    return (line.split() for line in said.splitlines() if line.strip())


def differences(before: Sequence[DataPart], after: Sequence[DataPart], now: float) -> list[str]:
    """How the parts of ``after`` differ from those of ``before``, in words; what was to live until ``now`` (seconds
    since the epoch) may be gone."""
    there = {part.name: part for part in after}
    told = []
    for part in before:
        found = there.pop(part.name, None)
        if found is None:
            told += [] if 0 < part.until <= now * 1000 else [f"{part.name} is gone"]
        elif found.count != part.count:
            told.append(f"{part.name} has {found.count:,} where it had {part.count:,}")
        elif (found.checksum, found.until) != (part.checksum, part.until):
            told.append(f"{part.name} is another")
    return [*told, *(f"{name} is new" for name in there)]
