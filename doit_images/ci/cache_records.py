"""What is in the cache of the BuildKit that builds?"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings
from doit_images.core.base.timestamps import DAY, epoch_seconds
from doit_images.core.engine.client import CacheRecord, Engine

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SPANS = {
    "second": 1, "minute": 60, "hour": 3600, "day": DAY, "week": 7 * DAY, "month": 30 * DAY, "year": 365 * DAY,
}  # fmt: skip


def of(settings: Settings, engine: Engine, environ: Mapping[str, str]) -> Sequence[CacheRecord]:
    """The records of the cache of the BuildKit that builds. ``UserError`` where the engine does not answer; none of a
    dedicated builder that does not."""
    if settings.dedicated_builder:
        return of_builder(settings.builder_name, environ, time.time())
    return engine.build_cache()


def of_builder(name: str, environ: Mapping[str, str], now: float) -> list[CacheRecord]:
    """Those of the builder of this name; none where it does not answer."""
    done = commands.run(["docker", "buildx", "du", "--builder", name, "--verbose"], env=environ)
    return read_du(done.stdout, now) if done.status == 0 else []


def read_du(text: str, now: float) -> list[CacheRecord]:
    """The records in what ``docker buildx du --verbose`` prints. Its sizes and ages are rounded."""
    records = []
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = defaultdict(list)
        last = ""
        for line in block.splitlines():
            key, colon, value = line.partition(":")
            if colon and re.fullmatch(r"[A-Z][A-Za-z ]+", key):
                last = key
                fields[last].append(value.strip())
            elif last and line.strip():
                fields[last].append(line.strip("\t -"))  # further parents stand below the first
        if not fields.get("ID"):
            continue
        used = " ".join(fields["Last used"])
        records.append(
            CacheRecord(
                id=fields["ID"][0],
                parents=tuple(parent for parent in (*fields["Parent"], *fields["Parents"]) if parent),
                what=" ".join(fields["Description"] or fields["Type"]),
                size=_bytes(" ".join(fields["Size"])),
                used=now - _ago(used) if used else epoch_seconds(" ".join(fields["Created at"])),
                uses=int(" ".join(fields["Usage count"]) or 0),
                busy=fields["Reclaimable"] == ["false"],
                shared=fields["Shared"] == ["true"],
                made=epoch_seconds(" ".join(fields["Created at"])),
            )
        )
    return records


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)\s*(B|kB|MB|GB|TB)", text)
    if not match:
        raise UserError(f"docker buildx du shows a size that is not known here: {text!r}")
    return int(float(match[1]) * _BYTES[match[2]])


def _ago(text: str) -> float:
    """``3 minutes ago``, ``About an hour ago``, ``Less than a second ago`` in seconds."""
    match = re.search(r"(\d+|an?)\s+(second|minute|hour|day|week|month|year)", text)
    if not match:
        return 0.0
    return (1 if match[1].startswith("a") else int(match[1])) * float(_SPANS[match[2]])
