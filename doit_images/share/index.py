"""What do the machines that build together know of results?

In the same Redis that keeps the leases: of each fingerprint how its build went, so that a forecast knows the builds of
other machines; and of each image what the shared registry answered last, so that one question is enough for a thousand.
Entries expire, and a Redis that is full removes those first that nobody asked for.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from doit_images.core.base.shapes import fits
from doit_images.core.planning.shared_image import SharedImage
from doit_images.share.redis_client import Store

_MADE, _SHARED = "{doit-images}:made:", "{doit-images}:shared:"
_REMEMBERED_SECONDS = 90 * 86400  # how long an image is known that nobody builds again
_LONGEST_SECONDS = 1e7  # what says more is no build's time

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Made:
    """What is known of a fingerprint: the digest in the shared registry ("" if it is not there), the seconds that the
    build took, and the image's bytes."""

    digest: str
    seconds: float
    size: int


class Index:
    """The index in a Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def lookup(self, fingerprints: Sequence[str]) -> dict[str, Made]:
        """What is known of the builds of these fingerprints, in one round trip."""
        known = self._known(_MADE, fingerprints, Made)
        return {name: made for name, made in known.items() if 0 <= made.seconds < _LONGEST_SECONDS and made.size >= 0}

    def publish(self, made: Mapping[str, Made]) -> None:
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
                known = kind(**json.loads(text))
                if fits(known, kind):
                    found[name] = known
        return found

    def _put(self, prefix: str, entries: Mapping[str, Any], seconds: float) -> None:
        def write(redis: Any) -> None:
            with redis.pipeline(transaction=False) as pipe:
                for name, entry in entries.items():
                    pipe.set(f"{prefix}{name}", json.dumps(asdict(entry)), ex=max(1, round(seconds)))
                pipe.execute()

        if entries:
            self._store.do(write)
