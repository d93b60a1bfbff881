"""What is known of results before the shared registry is asked?

By the machines that build together, in the same Redis that keeps the leases: of each fingerprint how its build went, so
that a forecast knows the builds of other machines; and of each image what the registry answered last, so that one
question is enough for a thousand. Entries expire, and a Redis that is full removes those first that nobody asked for.

By this machine, in a file: what the registry last said of images that are not here, and that nothing here needed. A
child is known to be fresh by what its parent holds, also where the parent is not here: each run would have to ask the
registry about that one. What is remembered decides nothing else (``agreement.remembered``): for what is to be built or
pulled, and for rebuilds on purpose, the registry itself is asked.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from doit_images.core.base import checked_json
from doit_images.core.base.shapes import fits
from doit_images.core.base.timestamps import DAY
from doit_images.core.engine.labels import translated
from doit_images.core.planning.shared_image import SharedImage
from doit_images.share.redis_client import RedisClient

_MADE, _SHARED = "{doit-images}:made:", "{doit-images}:shared:"
_REMEMBERED_SECONDS = 90 * DAY  # how long an image is known that nobody builds again
_OLDEST_SECONDS = 30 * DAY  # of an answer that this machine remembers
_LONGEST_SECONDS = 1e7  # what says more is no build's time

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class KnownResult:
    """What is known of a fingerprint: the digest in the shared registry ("" if it is not there), the seconds that the
    build took, and the image's bytes."""

    digest: str
    seconds: float
    size: int


class ResultIndex:
    """The index in a Redis."""

    def __init__(self, store: RedisClient) -> None:
        self._store = store

    def lookup(self, fingerprints: Sequence[str]) -> dict[str, KnownResult]:
        """What is known of the builds of these fingerprints, in one round trip."""
        known = self._known(_MADE, fingerprints, KnownResult)
        return {name: made for name, made in known.items() if 0 <= made.seconds < _LONGEST_SECONDS and made.size >= 0}

    def publish(self, made: Mapping[str, KnownResult]) -> None:
        """Put what was made into the index, in one round trip."""
        self._put(_MADE, made, _REMEMBERED_SECONDS)

    def shared(self, names: Sequence[str]) -> dict[str, SharedImage]:
        """What registries were last known to hold under these names, in one round trip. It may be gone: to pull
        it by its digest tells, and who wants to be sure asks the registry."""
        return self._known(_SHARED, names, SharedImage)

    def keep_shared(self, images: Mapping[str, SharedImage], seconds: float) -> None:
        """Keep what a registry holds under these names for so long, in one round trip."""
        self._put(_SHARED, images, seconds)

    def drop(self, name: str) -> None:
        """A registry does not hold under this name what it was known to hold."""
        self._store.do(lambda redis: redis.delete(f"{_SHARED}{name}"))

    def _known(self, prefix: str, names: Sequence[str], kind: type[Kind]) -> dict[str, Kind]:
        answers = self._store.do(lambda redis: redis.mget([f"{prefix}{name}" for name in names])) if names else ()
        found = {}
        for name, text in zip(names, answers or (), strict=False):
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                found[name] = _fitting(kind, json.loads(text))
        return found

    def _put(self, prefix: str, entries: Mapping[str, Any], seconds: float) -> None:
        def write(redis: Any) -> None:
            with redis.pipeline(transaction=False) as pipe:
                for name, entry in entries.items():
                    pipe.set(f"{prefix}{name}", json.dumps(asdict(entry)), ex=max(1, round(seconds)))
                pipe.execute()

        if entries:
            self._store.do(write)


class Remembered:
    """The memory of it: a ``file``, which may be lost. ``seconds`` is how long an answer is good."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._seconds = file, seconds

    def recent(self, names: Collection[str]) -> dict[str, SharedImage]:
        """What is known of these, if that is all of them: else the registry has to be asked in any case."""
        known = self._known(names, self._seconds)
        return known if len(known) == len(names) else {}

    def ever(self, names: Collection[str]) -> dict[str, SharedImage]:
        """What was known of these at any time, for a registry that does not answer."""
        return self._known(names, _OLDEST_SECONDS)

    def digests(self) -> dict[str, SharedImage]:
        """What was known of any image at any time, by its digest: that does not change."""
        names = (checked_json.recall(self._file) or {}).keys()
        return {image.digest: image for image in self.ever(names).values()}

    def keep(self, images: Mapping[str, SharedImage]) -> None:
        """Remember these, too, as said now."""
        now, before = time.time(), checked_json.recall(self._file) or {}
        young = {name: entry for name, entry in before.items() if _age(entry, now) < _OLDEST_SECONDS}
        checked_json.remember(self._file, {**young, **{name: [now, asdict(image)] for name, image in images.items()}})

    def _known(self, names: Collection[str], seconds: float) -> dict[str, SharedImage]:
        now, entries, known = time.time(), checked_json.recall(self._file) or {}, {}
        for name in names:
            with contextlib.suppress(LookupError, ValueError, TypeError):
                image = _fitting(SharedImage, entries[name][1])
                if _age(entries[name], now) < seconds:
                    known[name] = replace(image, labels=translated(image.labels))
        return known


def _fitting(kind: type[Kind], content: Any) -> Kind:
    """What this JSON says; ``TypeError`` if it is of another form."""
    known = kind(**content)
    if not fits(known, kind):
        raise TypeError
    return known


def _age(entry: Any, now: float) -> float:
    """The seconds since an answer; infinite for what is none, and for one of the future."""
    try:
        age = now - float(entry[0])
    except (TypeError, ValueError, KeyError, IndexError):
        return math.inf
    return age if age >= 0 else math.inf
