"""Whose turn is it? A model works at so many tasks side by side, in all processes together.

A task belongs to the process that took its request (its ``worker``), as long as that says so now and then, and until it
has ended there: a task that is cancelled has its place until then. Places are given first to those users who have the
fewest, then to who came first; no user has all of a model's. What a process leaves behind when it dies, another one
takes over.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.postgres import Database, lock
from orchestrator.tasks import Task, shown

LEASE_SECONDS = 15
"""A process that has said nothing for this long is dead."""

# Each locks its rows by their ids: two that change the same ones would wait for each other otherwise.
_GRANT = text("""
    WITH live AS (
        SELECT model, user_id, count(*) AS places FROM orchestrator.tasks
        WHERE worker IS NOT NULL AND state <> 'queued' AND lease_until > now() GROUP BY model, user_id
    ), turns AS (
        SELECT id, model, created_at, coalesce(places, 0)
            + row_number() OVER (PARTITION BY model, user_id ORDER BY created_at, id) AS turn
        FROM orchestrator.tasks LEFT JOIN live USING (model, user_id)
        WHERE worker IS NOT NULL AND state = 'queued' AND lease_until > now() AND deadline > now()
    ), numbered AS (
        SELECT id, row_number() OVER (PARTITION BY model ORDER BY turn, created_at, id)
            + (SELECT coalesce(sum(places), 0) FROM live WHERE live.model = turns.model) AS number
        FROM turns WHERE turn <= :share
    )
    UPDATE orchestrator.tasks SET state = 'running', updated_at = now() WHERE id IN (
        SELECT id FROM orchestrator.tasks
        WHERE state = 'queued' AND id IN (SELECT id FROM numbered WHERE number <= :places) ORDER BY id FOR UPDATE
    ) RETURNING id
""")
_RENEW = text("""
    UPDATE orchestrator.tasks
    SET lease_until = now() + make_interval(secs => :lease),
        worker = CASE WHEN state IN ('queued', 'running') OR id = ANY(:ids) THEN worker END
    WHERE id IN (SELECT id FROM orchestrator.tasks WHERE worker = :worker ORDER BY id FOR UPDATE)
    RETURNING id, state
""")
_ADOPT = text("""
    UPDATE orchestrator.tasks
    SET worker = :worker, state = 'queued', lease_until = now() + make_interval(secs => :lease)
    WHERE id IN (
        SELECT id FROM orchestrator.tasks
        WHERE worker IS NOT NULL AND state IN ('queued', 'running') AND lease_until <= now() AND deadline > now()
            AND token IS NOT NULL
        ORDER BY created_at LIMIT 8 FOR UPDATE SKIP LOCKED
    ) RETURNING
        id, state, prompt, model, session, answer, error, stored, created_at, updated_at, deadline,
        user_id, username, token
""")
_RELEASE = text("""
    UPDATE orchestrator.tasks
    SET lease_until = now(), worker = gen_random_uuid(),
        state = CASE state WHEN 'running' THEN 'queued' ELSE state END
    WHERE id IN (SELECT id FROM orchestrator.tasks WHERE worker = :worker AND id <> ALL(:ids) ORDER BY id FOR UPDATE)
""")


@dataclass(frozen=True)
class Owner:
    """Whose task it is, with the token that lets us ask ``memory`` in that name."""

    user_id: uuid.UUID
    username: str
    token: str = field(repr=False)


class Places:
    """The places at each model, ``count`` of them, as one process sees them. A user has 3/4."""

    def __init__(self, database: Database, count: int) -> None:
        self._database = database
        self._counts = {"places": count, "share": max(1, count * 3 // 4)}
        self.worker = uuid.uuid4()

    async def look(self, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
        """Say that we live and are at the tasks ``ids``, and give free places away. Returns the state of each that is
        still ours."""
        mine = {"worker": self.worker, "lease": LEASE_SECONDS, "ids": list(ids)}
        await self._database.rows(_RENEW, mine)
        async with self._database.begin() as connection:
            await self.give(connection)
            rows = (await connection.execute(_RENEW, mine)).all()
        return {row.id: row.state for row in rows}

    async def give(self, connection: AsyncConnection) -> Collection[uuid.UUID]:
        """Give free places away in the transaction of ``connection``. Returns which tasks have got one."""
        await lock(connection, "places")
        return (await connection.execute(_GRANT, self._counts)).scalars().all()

    async def adopt(self) -> Sequence[tuple[Task, Owner]]:
        """Take over what dead processes left."""
        rows = await self._database.rows(_ADOPT, {"worker": self.worker, "lease": LEASE_SECONDS})
        return [(shown(row), Owner(row.user_id, row.username, row.token)) for row in rows]

    async def release(self, ids: Collection[uuid.UUID]) -> None:
        """Say that we are at nothing but the tasks ``ids``: others take over what else has not ended, at once."""
        await self._database.rows(_RELEASE, {"worker": self.worker, "ids": list(ids)})
