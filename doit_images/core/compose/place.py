"""Where in the Compose files does a key stand?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from doit_images.core.base import files as kept


def place(files: Sequence[Path], *keys: str) -> str:
    """The file, with its line (``file:7``), that says something under these ``keys``, or under the most of them, and of
    several the last, which counts. The first file alone where none knows two of them: what it includes may."""
    best, found = 0, str(files[0])
    for file in files:
        depth, line = _deepest(file, keys)
        if depth > 1 and depth >= best:
            best, found = depth, f"{file}:{line}"
    return found


def _deepest(file: Path, keys: Sequence[str]) -> tuple[int, int]:
    """How many of the keys, from the first on, stand there, and the line of the last of them."""
    import yaml

    try:
        node: Any = yaml.compose(kept.content(file), yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return 0, 0
    line = 0
    for depth, key in enumerate(keys):
        pair = next((pair for pair in _pairs(node) if pair[0].value == key), None)
        if pair is None:
            return depth, line
        line, node = pair[0].start_mark.line + 1, pair[1]
    return len(keys), line


def _pairs(node: object) -> Iterator[tuple[Any, Any]]:
    """The keys of a mapping with their values; behind its own those that it merges (``<<``)."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _pairs(each)
    if not isinstance(node, yaml.MappingNode):
        return
    yield from node.value
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            yield from _pairs(value)
