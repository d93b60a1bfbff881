"""May this address try again? Attempts are counted in Redis, a minute at a time."""

from __future__ import annotations

from http import HTTPStatus

from redis.asyncio import Redis

from common.problems import Problem

WINDOW_SECONDS = 60
ALL_USERS = 10
"""An address may try this many times as often in all as for one user: several people can share it."""


class RateLimit:
    """At most ``per_minute`` attempts from one address for one user name."""

    def __init__(self, redis: Redis, per_minute: int) -> None:
        self._redis = redis
        self._per_minute = per_minute

    async def count(self, address: str, username: str) -> None:
        """Count an attempt. Raises 429, with the seconds to wait, when it is one too many."""
        await self._count(f"auth:attempts:{address}", self._per_minute * ALL_USERS)
        await self._count(f"auth:attempts:{address}:{username.lower()[:64]}", self._per_minute)

    async def _count(self, key: str, limit: int) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            # The window is set before the count: a key that never expires cannot be left behind.
            pipeline.set(key, 0, ex=WINDOW_SECONDS, nx=True)
            pipeline.incr(key)
            pipeline.ttl(key)
            _, attempts, left = await pipeline.execute()
        if attempts > limit:
            seconds = max(left, 1)
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"Too many attempts; wait {seconds} seconds.",
                headers={"Retry-After": str(seconds)},
            )
