"""Which access tokens were revoked before they expired?

Redis keeps their ids until they expire. When it is away nobody can say, so its error is let through: the request
is refused with 503 rather than a revoked token accepted.
"""

from __future__ import annotations

from datetime import datetime

from redis.asyncio import Redis


class Revocations:
    """The ids of revoked tokens."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def revoke(self, token_id: str, expires_at: datetime) -> None:
        """Remember ``token_id`` until ``expires_at`` (and a second, as clocks differ)."""
        await self._redis.set(_key(token_id), "1", exat=int(expires_at.timestamp()) + 1)

    async def revoked(self, token_id: str) -> bool:
        """Whether ``token_id`` was revoked."""
        return bool(await self._redis.exists(_key(token_id)))


def _key(token_id: str) -> str:
    return f"auth:revoked:{token_id}"
