"""What became of a task? Its state is in Redis, under its owner."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, cast

from pydantic import BaseModel
from redis.asyncio import Redis

MOST = 1000
"""Of one user, this many tasks can be listed: the newest."""


class Context(BaseModel):
    """A memory that went to the model with the prompt."""

    memory_id: uuid.UUID
    text: str
    score: float


class Task(BaseModel):
    """A prompt and what became of it."""

    id: uuid.UUID
    state: Literal["queued", "running", "done", "failed"] = "queued"
    prompt: str
    model: str
    session: str | None = None
    context: list[Context] = []
    answer: str | None = None
    error: str | None = None
    stored: bool = False
    created_at: datetime
    updated_at: datetime
    deadline: datetime

    def as_of(self, now: datetime) -> Task:
        """The task as it must be called at ``now``: nobody works any more at one that is past its deadline."""
        if self.state in ("done", "failed") or now <= self.deadline:
            return self
        return self.model_copy(
            update={"state": "failed", "error": "The orchestrator was stopped before the task was done."}
        )


def new_task(prompt: str, model: str, session: str | None, limit: timedelta) -> Task:
    """A queued task that must be done within ``limit``."""
    now = datetime.now(UTC)
    return Task(
        id=uuid.uuid4(), prompt=prompt, model=model, session=session,
        created_at=now, updated_at=now, deadline=now + limit,
    )  # fmt: skip


class Tasks:
    """The tasks of all users. Every question names the user; another's task does not exist for it."""

    def __init__(self, redis: Redis, ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds

    async def save(self, user_id: uuid.UUID, task: Task) -> None:
        """Keep ``task`` as it is now."""
        task.updated_at = datetime.now(UTC)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(_key(user_id, task.id), task.model_dump_json(), ex=self._ttl_seconds)
            pipeline.zadd(_list(user_id), {str(task.id): task.created_at.timestamp()})
            pipeline.zremrangebyrank(_list(user_id), 0, -MOST - 1)
            pipeline.expire(_list(user_id), self._ttl_seconds)
            await pipeline.execute()

    async def get(self, user_id: uuid.UUID, task_id: uuid.UUID) -> Task | None:
        """The task, if ``user_id`` has it."""
        kept = await self._redis.get(_key(user_id, task_id))
        return None if kept is None else _read(kept)

    async def newest(self, user_id: uuid.UUID, count: int) -> Sequence[Task]:
        """The last ``count`` tasks of ``user_id``, newest first."""
        ids = cast(list[str], await self._redis.zrange(_list(user_id), 0, count - 1, desc=True))
        if not ids:
            return []
        kept = await self._redis.mget([_key(user_id, uuid.UUID(one)) for one in ids])
        return [_read(one) for one in kept if one is not None]


def _read(kept: str | bytes) -> Task:
    return Task.model_validate_json(kept).as_of(datetime.now(UTC))


def _key(user_id: uuid.UUID, task_id: uuid.UUID) -> str:
    return f"orchestrator:task:{user_id}:{task_id}"


def _list(user_id: uuid.UUID) -> str:
    return f"orchestrator:tasks:{user_id}"
