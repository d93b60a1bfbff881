"""Whose turn is it? The model works at so many tasks side by side, in all processes together.

A task belongs to the process that took its request, as long as that process says so now and then. Places are given
first to those users who have the fewest, then to who came first. What a process leaves behind when it dies, another one
takes over.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import text

from common.postgres import Database, lock_key
from orchestrator.tasks import Task, shown

LEASE_SECONDS = 15
"""A process that has said nothing for this long is dead."""

_GRANT = text("""
    WITH live AS (
        SELECT user_id, count(*) AS places FROM orchestrator.tasks
        WHERE state = 'running' AND lease_until > now() GROUP BY user_id
    ), turns AS (
        SELECT id, created_at, coalesce(places, 0)
            + row_number() OVER (PARTITION BY user_id ORDER BY created_at, id) AS turn
        FROM orchestrator.tasks LEFT JOIN live USING (user_id)
        WHERE state = 'queued' AND lease_until > now() AND deadline > now()
    )
    UPDATE orchestrator.tasks SET state = 'running', updated_at = now() WHERE id IN (
        SELECT id FROM turns ORDER BY turn, created_at, id
        LIMIT greatest(0, :places - (SELECT coalesce(sum(places), 0) FROM live))
    )
""")
_RENEW = text("""
    UPDATE orchestrator.tasks SET lease_until = now() + make_interval(secs => :lease)
    WHERE worker = :worker AND state IN ('queued', 'running') RETURNING id, state
""")
_ADOPT = text("""
    UPDATE orchestrator.tasks
    SET worker = :worker, state = 'queued', lease_until = now() + make_interval(secs => :lease)
    WHERE id IN (
        SELECT id FROM orchestrator.tasks
        WHERE state IN ('queued', 'running') AND lease_until <= now() AND deadline > now() AND token IS NOT NULL
        ORDER BY created_at LIMIT 8 FOR UPDATE SKIP LOCKED
    ) RETURNING
        id, state, prompt, model, session, answer, error, stored, created_at, updated_at, deadline,
        user_id, username, token
""")
_RELEASE = text("""
    UPDATE orchestrator.tasks SET state = 'queued', lease_until = now()
    WHERE worker = :worker AND id = ANY(:ids) AND state IN ('queued', 'running')
""")


@dataclass(frozen=True)
class Owner:
    """Whose task it is, with the token that lets us ask ``memory`` in that name."""

    user_id: uuid.UUID
    username: str
    token: str = field(repr=False)


class Places:
    """The places at the model, as one process sees them."""

    def __init__(self, database: Database, count: int) -> None:
        self._database = database
        self._count = count
        self.worker = uuid.uuid4()

    async def look(self) -> dict[uuid.UUID, str]:
        """Say that we live, and give free places away. Returns the state of each task that is still ours."""
        mine = {"worker": self.worker, "lease": LEASE_SECONDS}
        async with self._database.begin() as connection:
            await connection.execute(_RENEW, mine)
        async with self._database.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key("places")})
            await connection.execute(_GRANT, {"places": self._count})
            rows = (await connection.execute(_RENEW, mine)).all()
        return {row.id: row.state for row in rows}

    async def adopt(self) -> Sequence[tuple[Task, Owner]]:
        """Take over what dead processes left."""
        async with self._database.connect() as connection:
            rows = (await connection.execute(_ADOPT, {"worker": self.worker, "lease": LEASE_SECONDS})).all()
        return [(shown(row), Owner(row.user_id, row.username, row.token)) for row in rows]

    async def release(self, ids: Sequence[uuid.UUID]) -> None:
        """Let others take over these tasks, at once."""
        async with self._database.connect() as connection:
            await connection.execute(_RELEASE, {"worker": self.worker, "ids": list(ids)})
