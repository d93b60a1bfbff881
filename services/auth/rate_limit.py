"""May this be tried again? Attempts are counted in Redis, a minute at a time: from an address, and for an account.

Whoever guesses one password from many addresses meets the limit of the account. That limit does not shut its owner
out: an address from which somebody logged in to the account lately is held to the limits of the address alone.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

from redis.asyncio import Redis

from common.problems import TooMany

WINDOW_SECONDS = 60
ALL_USERS = 10
"""An address may try this many times as often in all as for one user: several people can share it."""
ALL_ADDRESSES = 3
"""An account may be tried this many times as often from strange addresses together as from one."""
KNOWN_SECONDS = 30 * 86_400
"""How long an address is remembered from which somebody logged in."""


class RateLimit:
    """At most ``per_minute`` attempts from one address for one user name."""

    def __init__(self, redis: Redis, per_minute: int) -> None:
        self._redis = redis
        self._per_minute = per_minute

    async def count(self, address: str, username: str) -> None:
        """Count an attempt. Raises 429, with the seconds to wait, when it is one too many."""
        address, account = _network(address), username.lower()[:64]
        await self._count(f"auth:attempts:{address}", self._per_minute * ALL_USERS)
        await self._count(f"auth:attempts:{address}:{account}", self._per_minute)
        if not await self._redis.exists(_known(address, account)):
            await self._count(f"auth:attempts::{account}", self._per_minute * ALL_ADDRESSES)

    async def succeeded(self, address: str, username: str) -> None:
        """Remember that somebody logged in."""
        await self._redis.set(_known(_network(address), username.lower()), "1", ex=KNOWN_SECONDS)

    async def _count(self, key: str, limit: int) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            # The window is set before the count: a key that never expires cannot be left behind.
            pipeline.set(key, 0, ex=WINDOW_SECONDS, nx=True)
            pipeline.incr(key)
            pipeline.ttl(key)
            _, attempts, left = await pipeline.execute()
        if attempts > limit:
            raise TooMany("logins", f"Too many attempts; wait {max(left, 1)} seconds.", max(left, 1))


def _known(address: str, account: str) -> str:
    return f"auth:known:{address}:{account}"


def _network(address: str) -> str:
    """Whose address it is: of IPv6 a customer has 2⁶⁴ at least."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False).network_address)
    return address
