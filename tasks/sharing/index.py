"""What do the machines that build together know of results?

Of each fingerprint, in the same Redis that keeps the leases: how its build went, so that a forecast knows other
machines' builds. Entries expire, and a Redis that is full removes those first that nobody asked for.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.base.shapes import fits
from tasks.sharing.redis_client import Store

_MADE = "{vllm-swarm}:made:"
_REMEMBERED_SECONDS = 90 * 86400  # how long an image is known that nobody builds again
_LONGEST_SECONDS = 1e7  # what says more is no build's time


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
        """What is known of these fingerprints, in one round trip."""
        if not fingerprints:
            return {}
        answers = self._store.do(lambda redis: redis.mget([f"{_MADE}{fingerprint}" for fingerprint in fingerprints]))
        made = {}
        for fingerprint, text in zip(fingerprints, answers or (), strict=False):
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                known = Made(**json.loads(text))
                if fits(known, Made) and 0 <= known.seconds < _LONGEST_SECONDS and known.size >= 0:
                    made[fingerprint] = known
        return made

    def publish(self, made: Mapping[str, Made]) -> None:
        """Put what was made into the index, in one round trip."""

        def write(redis: Any) -> None:
            with redis.pipeline(transaction=False) as pipe:
                for fingerprint, result in made.items():
                    pipe.set(f"{_MADE}{fingerprint}", json.dumps(asdict(result)), ex=_REMEMBERED_SECONDS)
                pipe.execute()

        self._store.do(write)
