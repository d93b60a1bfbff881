"""What was said in this session? Redis keeps the last messages of each, and forgets it after a while."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel
from redis.asyncio import Redis

from common.texts import Text

LONGEST = 500
"""Of a session, this many messages are kept: the last ones."""


class Message(BaseModel):
    """Something that was said, and by whom."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Sessions:
    """The sessions of all users."""

    def __init__(self, redis: Redis, ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds

    async def append(self, user_id: uuid.UUID, session: str, messages: Sequence[Message]) -> int:
        """Add ``messages``, all or none of them. Returns how many the session has now."""
        key = _key(user_id, session)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.rpush(key, *(json.dumps([one.role, one.content]) for one in messages))
            pipeline.ltrim(key, -LONGEST, -1)
            pipeline.llen(key)
            pipeline.expire(key, self._ttl_seconds)
            _, _, length, _ = await pipeline.execute()
        return int(length)

    async def last(self, user_id: uuid.UUID, session: str, count: int) -> list[Message]:
        """The last ``count`` messages, oldest first; none when there is no such session."""
        kept = await self._redis.lrange(_key(user_id, session), -count, -1)
        return [Message(role=role, content=content) for role, content in map(json.loads, kept)]

    async def clear(self, user_id: uuid.UUID, session: str) -> bool:
        """Forget the session. False when there is none."""
        return bool(await self._redis.delete(_key(user_id, session)))


def _key(user_id: uuid.UUID, session: str) -> str:
    return f"memory:session:{user_id}:{session}"
