"""How does a service talk to Redis, and what when it is away?

Short time limits and no retries: a command that timed out may have been done (an append would be done
twice). A pooled connection that Redis closed is noticed, and replaced, before it is used. Its errors become 503
(``common.problems``).
"""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from common.settings import RedisSettings

SECONDS = 2
"""The limit of connecting, of waiting for a free connection, and of each command."""


def connect(settings: RedisSettings) -> Redis:
    """A client that connects when it is first used; texts in, texts out."""
    pool = BlockingConnectionPool(
        host=settings.redis_host,
        port=settings.redis_port,
        username=settings.redis_user,
        password=settings.redis_password.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=SECONDS,
        socket_timeout=SECONDS,
        max_connections=32,
        timeout=SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


async def writes(redis: Redis, service: str) -> None:
    """Raise ``RedisError`` unless Redis takes what is written: a full one still answers questions."""
    await redis.set(f"{service}:health", "1", ex=60)
