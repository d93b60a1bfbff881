"""What became of a task? Its state is in PostgreSQL, under its owner, and so is the queue (``orchestrator.places``)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from common.pages import Place, paged
from common.postgres import Database, lock
from common.problems import TooMany
from orchestrator.tables import KeptTask

MOST = 1000
"""Of one user, this many tasks are kept: the newest."""

UNFINISHED = ("queued", "running")
LOST = "The orchestrator was stopped before the task was done."


class Context(BaseModel):
    """A memory that went to the model with the prompt."""

    memory_id: uuid.UUID
    text: str
    score: float


class Task(BaseModel):
    """A prompt and what became of it."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    state: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
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
        if self.state not in UNFINISHED or now <= self.deadline:
            return self
        return self.model_copy(update={"state": "failed", "error": LOST})


def new_task(prompt: str, model: str, session: str | None, seconds: float) -> Task:
    """A queued task that must be done within so many ``seconds``."""
    now = datetime.now(UTC)
    return Task(
        id=uuid.uuid4(), prompt=prompt, model=model, session=session,
        created_at=now, updated_at=now, deadline=now + timedelta(seconds=seconds),
    )  # fmt: skip


_TOO_MANY = f"""id IN (
    SELECT old.id FROM (
        SELECT DISTINCT user_id FROM orchestrator.tasks WHERE updated_at > now() - interval '10 minutes'
    ) AS busy CROSS JOIN LATERAL (
        SELECT id FROM orchestrator.tasks WHERE user_id = busy.user_id ORDER BY created_at DESC OFFSET {MOST}
    ) AS old)"""  # noqa: S608 - no text of others
_SHOWN = [getattr(KeptTask, name) for name in Task.model_fields]


class Tasks:
    """The tasks of all users. Every question of a user names the user; another's task does not exist for it."""

    def __init__(self, database: Database, ttl_seconds: int, unfinished: int) -> None:
        """A user may have so many ``unfinished`` tasks."""
        self._database = database
        self._ttl = ttl_seconds
        self._unfinished = unfinished

    def check(self, unfinished: int) -> None:
        """Raise 429 when a user with so many ``unfinished`` tasks may not have another one."""
        if unfinished >= self._unfinished:
            sentence = f"You have {self._unfinished} tasks that are not done: wait for one, or cancel it."
            raise TooMany("tasks", sentence)

    @asynccontextmanager
    async def adding(self, task: Task, user_id: uuid.UUID, **more: Any) -> AsyncIterator[AsyncConnection]:
        """A transaction that keeps a new ``task`` of a user, whose other columns are ``more``. Raises 429 when too many
        of theirs have not ended."""
        mine = select(func.count()).where(KeptTask.user_id == user_id, KeptTask.worker.is_not(None))
        values = {**task.model_dump(exclude={"context"}), "context": [], "user_id": user_id, **more}
        async with self._database.begin() as connection:
            await lock(connection, f"tasks of {user_id}")
            self.check((await connection.execute(mine.where(KeptTask.deadline > func.now()))).scalar_one())
            await connection.execute(insert(KeptTask).values(**values))
            yield connection

    async def save(self, task: Task, worker: uuid.UUID) -> bool:
        """Keep ``task`` as it is now. False when it is no longer this ``worker``'s: cancelled, or taken over."""
        task.updated_at = datetime.now(UTC)
        values = task.model_dump(exclude={"id", "context"})
        values["context"] = [one.model_dump(mode="json") for one in task.context]
        if task.state not in UNFINISHED:
            values |= {"token": None, "worker": None}
        ours = (KeptTask.id == task.id, KeptTask.worker == worker, KeptTask.state.in_(UNFINISHED))
        saved = update(KeptTask).where(*ours).values(**values).returning(KeptTask.id)
        return await self._database.row(saved) is not None

    async def get(self, user_id: uuid.UUID, task_id: uuid.UUID) -> Task | None:
        """The task, if ``user_id`` has it."""
        statement = select(*_SHOWN).where(KeptTask.id == task_id, KeptTask.user_id == user_id)
        row = await self._database.row(statement)
        return None if row is None else shown(row)

    async def page(self, user_id: uuid.UUID, after: Place | None, count: int) -> Sequence[Task]:
        """The next ``count`` tasks of ``user_id``, newest first."""
        mine = select(*_SHOWN).where(KeptTask.user_id == user_id)
        return [shown(row) for row in await self._database.rows(paged(mine, KeptTask, after, count))]

    async def cancel(self, user_id: uuid.UUID, task_id: uuid.UUID) -> bool:
        """Stop a task that has not ended, forget one that has. False when ``user_id`` has no such task."""
        this = (KeptTask.id == task_id, KeptTask.user_id == user_id)
        values = {"state": "cancelled", "error": "You cancelled it.", "token": None, "updated_at": func.now()}
        stop = update(KeptTask).where(*this, KeptTask.worker.is_not(None)).values(**values).returning(KeptTask.id)
        forget = delete(KeptTask).where(*this).returning(KeptTask.id)
        return bool(await self._database.row(stop) or await self._database.row(forget))

    async def remove(self, task_id: uuid.UUID) -> None:
        """Forget a task, whoever's it is."""
        await self._database.rows(delete(KeptTask).where(KeptTask.id == task_id))

    async def forget_old(self) -> None:
        """Forget what is past its time, what is more than ``MOST`` of one user, and what is of deleted users."""
        late = update(KeptTask).where(KeptTask.state.in_(UNFINISHED), KeptTask.deadline < func.now())
        await self._database.rows(late.values(state="failed", error=LOST, token=None))
        old = "updated_at < now() - make_interval(secs => :ttl)"
        await self._database.forget("orchestrator.tasks", old, _TOO_MANY, ttl=self._ttl)


def shown(row: Any) -> Task:
    """The task of a row, as it must be called now."""
    return Task.model_validate(row).as_of(datetime.now(UTC))
