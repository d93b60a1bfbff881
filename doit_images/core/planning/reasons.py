"""Why is an image not what it was? In words, from two lists of build_inputs.

Pure. What is compared is already safe to show (``safe_arguments``): a value that may be a secret is kept and
shown only as a digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doit_images.core.base.errors import printable
from doit_images.core.base.masking import HIDDEN
from doit_images.core.inputs.fingerprint import BuildInputs

_SHOWN = 5  # changed files named one by one; the rest is counted


NO_CACHE = "without cache, as asked"
"""The reason of a build that was asked to use no cache: it misses nothing."""
DUE = "`no_cache` is set: it is built in every run"
"""The reason of a build that misses nothing either."""


def differences(before: BuildInputs, now: BuildInputs) -> list[str]:
    """What makes ``now`` another image than ``before``, most telling first; empty if nothing that is known does."""
    return [
        *_files(before.files, now.files),
        *_settings(before.settings, now.settings),
        *_bases(before.bases, now.bases),
        *(f"source {remote} added" for remote in now.remotes if remote not in before.remotes),
        *(f"source {remote} removed" for remote in before.remotes if remote not in now.remotes),
    ]


def _files(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    moved = [
        *(f"`{path}` {_how(before[path], now[path])}" for path in now if before.get(path, now[path]) != now[path]),
        *(f"`{path}` added" for path in now if path not in before),
        *(f"`{path}` removed" for path in before if path not in now),
    ]
    yield from map(printable, moved[:_SHOWN])
    if len(moved) > _SHOWN:
        yield f"and {len(moved) - _SHOWN} more files"


def _how(before: str, now: str) -> str:
    old, new = before.split(" ", 2), now.split(" ", 2)
    if old[0] != new[0]:
        return f"is now a {new[0]}, was a {old[0]}"
    if old[2:] == new[2:]:
        return f"mode {old[1]} → {new[1]}"
    return "changed"


def _settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) or isinstance(new, Mapping):
            yield from _entries(key.rstrip("s"), old or {}, new or {})
        else:
            yield f"{key} {_shown(old)} → {_shown(new)}"


def _entries(kind: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if old.get(name) == new.get(name) and (name in old) == (name in new):
            continue
        if name not in old:
            yield f"{kind} `{name}` added"
        elif name not in new:
            yield f"{kind} `{name}` removed"
        elif HIDDEN in f"{old[name]}{new[name]}":
            yield f"{kind} `{name}` changed"
        else:
            yield f"{kind} `{name}` {_shown(old[name])} → {_shown(new[name])}"


def _bases(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for ref in now:
        if ref not in before:
            yield f"base `{ref}` is new"
        elif before[ref] != now[ref]:
            yield f"`{ref}` moved {_short(before[ref])} → {_short(now[ref])}"
    yield from (f"base `{ref}` is gone" for ref in before if ref not in now)


def _short(digest: str) -> str:
    return digest[:19] + "…" if digest else "unknown"


def _shown(value: object) -> str:
    text = "nothing" if value in (None, "", [], False) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"
