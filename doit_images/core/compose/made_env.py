"""Is the ``.env`` that lies here the one that was made here?

It is then no part of any context: the project was complete without it. What somebody else put there is theirs.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from doit_images.core.base import checked_json, files
from doit_images.core.base.errors import UserError

_KEPT = "env-made.json"
_SECRET = re.compile(r"\b[0-9a-f]{64}\b")  # as `secrets.filled` makes them


def note(env: Path, common: Path) -> None:
    """Remember, in ``.doit-images`` (``common``), that this ``.env`` was made: by the digests of its secrets."""
    checked_json.remember(common / _KEPT, {"secrets": _digests(env)})


def is_ours(env: Path, common: Path) -> bool:
    """Whether this ``.env`` has a secret that was made here, whatever else was edited in it."""
    known = checked_json.recall(common / _KEPT) or {}
    return bool(known) and not set(known.get("secrets") or ()).isdisjoint(_digests(env))


def _digests(env: Path) -> list[str]:
    try:
        values = _SECRET.findall(files.text(env))
    except (OSError, UserError):  # it was removed, say
        return []
    return sorted(hashlib.sha256(value.encode()).hexdigest() for value in values)
