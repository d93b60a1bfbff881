"""What did a container change of the image that it was made from? Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

_KINDS = {0: "changed", 1: "added", 2: "deleted"}
# Where programs write while they run (Filesystem Hierarchy Standard 3.0).
_FOR_RUNNING = {"/tmp", "/run", "/var/tmp", "/var/run", "/var/log", "/var/cache", "/var/lock", "/var/spool"}  # noqa: S108


def changes(listed: Iterable[Mapping[str, Any]], mounted: Collection[str]) -> list[str]:
    """What the engine lists of a container's own layer, in words: neither what lies where programs write while they
    run, nor what the engine made there for something that is ``mounted``, nor folders that are listed for what changed
    in them.

    >>> changes([{"Path": "/a", "Kind": 0}, {"Path": "/a/main.py", "Kind": 0}, {"Path": "/data", "Kind": 1}], ["/data"])
    ['/a/main.py was changed']
    """
    kinds = {entry["Path"]: _KINDS.get(entry["Kind"], "changed") for entry in listed}
    above = {folder for path in (*kinds, *mounted) for folder in _above(path)}
    skipped = {*mounted, *_FOR_RUNNING}
    return [
        f"{path} was {kind}"
        for path, kind in sorted(kinds.items())
        if path not in skipped and not (path in above and kind != "deleted") and not skipped.intersection(_above(path))
    ]


def _above(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts))]
