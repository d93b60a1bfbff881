"""Which parts of a Compose project does a test with services run beside? As ``Compose.config`` tells them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def with_needs(names: Collection[str], services: Mapping[str, Any]) -> list[str]:
    """These services and those that they depend on, as far as they are there, sorted."""
    wanted: dict[str, None] = {}
    todo = list(names)
    while todo:
        if (name := todo.pop()) not in wanted and name in services:
            wanted[name] = None
            todo += services[name].get("depends_on") or {}
    return sorted(wanted)


def declared(config: Mapping[str, Any], names: Iterable[str], directory: Path) -> str:
    """One digest over what Compose says of these services, but not of how they are built, nor where the checkout
    lies."""
    every, passed_over = config["services"], ("build", "develop")
    services = {name: {key: value for key, value in every[name].items() if key not in passed_over} for name in names}
    told = {"services": services, **{key: config.get(key) for key in ("networks", "volumes", "configs")}}
    text = json.dumps(told, sort_keys=True).replace(str(directory), ".")
    return hashlib.sha256(text.encode()).hexdigest()


def mounted(config: Mapping[str, Any], names: Iterable[str]) -> Iterator[Path]:
    """The files and folders of this machine that these services see, as absolute paths."""
    for name in names:
        for mount in config["services"][name].get("volumes") or ():
            if mount.get("type") == "bind" and mount.get("source"):
                yield Path(mount["source"])
    for entry in (config.get("configs") or {}).values():
        if (entry or {}).get("file"):
            yield Path(entry["file"])
