"""What do Dockerfiles read? Each text is parsed once, for later runs too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doit_images.core.base import checked_json
from doit_images.core.inputs.fingerprint import digest_of_text
from doit_images.core.inputs.reads import Reads, joined

# Raised whenever parsing gives other answers than before: kept ones are then not used.
_PARSER = 8


class Parsed:
    """What was parsed, as it is kept in the file ``path``. For any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, object] = checked_json.recall(path) or {}
        self._used: dict[str, object] = {}
        self._reads: dict[str, Reads] = {}

    def reads(self, text: str, asked: Mapping[str, object]) -> Reads:
        """What a text reads; ``asked`` are the words of ``dockerfile.reads``, with the ``platforms`` to build for and
        those that it is ``built_on``. Raises ``UserError`` for a text that is no Dockerfile."""
        key = digest_of_text(json.dumps([_PARSER, text, asked], sort_keys=True))
        if key not in self._reads:
            known = _known(self._kept.get(key))
            self._reads[key] = known or _parse(text, asked)
            self._used[key] = self._kept[key] if known else self._reads[key].to_json()
        return self._reads[key]

    def keep(self) -> None:
        """Write down what this run parsed or used, for the next one."""
        if any(key not in self._kept for key in [*self._used]):  # others may read meanwhile
            self._kept = dict(self._used)
            checked_json.remember(self._path, self._kept)


def _known(kept: Any) -> Reads | None:
    """What was parsed before; None where that is nothing, or of another version."""
    try:
        return Reads.from_json(kept) if kept else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _parse(text: str, asked: Mapping[str, Any]) -> Reads:
    from doit_images.core.inputs import dockerfile  # parsing is rare: its answers are kept

    common = {name: value for name, value in asked.items() if name not in ("platforms", "built_on")}
    pairs = [(target, on) for target in asked["platforms"] for on in asked["built_on"]]
    return joined([dockerfile.reads(text, **common, platform=target, build_platform=on) for target, on in pairs])
