"""How does a service talk to Redis, and what when it is away?

Short time limits, and no second wait. A command whose connection breaks is sent once more on another: a Redis that was
started anew may have told nobody, and what is sent may be done twice (an attempt at most counts twice). Its errors
become 503 (``common.problems``).
"""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Broken

from common.settings import RedisSettings

SECONDS = 2
"""The limit of connecting, of waiting for a free connection, and of each command."""


def connect(settings: RedisSettings) -> Redis:
    """A client that connects when it is first used; texts in, texts out."""
    pool = BlockingConnectionPool(
        host=settings.redis_host, port=settings.redis_port, username=settings.redis_user,
        password=settings.redis_password.get_secret_value(), decode_responses=True, max_connections=32,
        timeout=SECONDS, socket_connect_timeout=SECONDS, socket_timeout=SECONDS, retry=Retry(NoBackoff(), 1, (Broken,)),
    )  # fmt: skip
    return Redis.from_pool(pool)
