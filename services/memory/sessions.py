"""What was said in this session? The last messages of each are kept, and forgotten after a while."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from common.postgres import Database, lock
from common.problems import Problem
from common.texts import Text
from memory.settings import Quota
from memory.tables import Said, Session

LONGEST = 500
"""Of a session, this many messages are kept: the last ones."""


class Message(BaseModel):
    """Something that was said, and by whom."""

    role: Literal["system", "user", "assistant"]
    content: Text


@dataclass(frozen=True)
class KeptSession:
    """How much of a session is kept, and until when."""

    session: str
    length: int
    bytes: int
    expires_at: datetime


# Made once: that takes as long as asking.
_LAST = (
    select(Said.role, Said.content)
    .join(Session, (Session.user_id == Said.user_id) & (Session.name == Said.session))
    .where(Said.user_id == bindparam("of"), Said.session == bindparam("name"), Session.expires_at > func.now())
    .order_by(Said.number.desc())
    .limit(bindparam("count"))
)


class Sessions:
    """The sessions of all users."""

    def __init__(self, database: Database, ttl_seconds: int, quota: Quota) -> None:
        self._database = database
        self._ttl = timedelta(seconds=ttl_seconds)
        self._quota = quota

    async def append(self, user_id: uuid.UUID, session: str, messages: Sequence[Message]) -> int:
        """Add ``messages``, all or none of them. Returns how many the session has now. Raises 409 over the quota."""
        size = sum(len(one.content.encode()) for one in messages)
        async with self._database.begin() as connection:
            # One at a time for each user: else what several add at once could be over the quota together.
            await lock(connection, f"sessions of {user_id}")
            await connection.execute(
                delete(Session).where(Session.user_id == user_id, Session.expires_at <= func.now())
            )
            row = {"user_id": user_id, "name": session, "next_number": 0, "bytes": 0, "expires_at": func.now()}
            await connection.execute(upsert(Session).values(row).on_conflict_do_nothing())
            all_of_mine = select(func.count(), func.sum(Session.bytes)).where(Session.user_id == user_id)
            count, before = (await connection.execute(all_of_mine)).one()
            if count > self._quota.count or before + size > self._quota.bytes:
                sentence = f"You may have {self._quota.count} sessions of {self._quota.bytes} bytes in all: delete one."
                raise Problem(HTTPStatus.CONFLICT, sentence)
            this = (Session.user_id == user_id, Session.name == session)
            grown = {"next_number": Session.next_number + len(messages), "bytes": Session.bytes + size}
            statement = update(Session).where(*this).values(**grown, expires_at=func.now() + self._ttl)
            end = (await connection.execute(statement.returning(Session.next_number))).scalar_one()
            rows = [
                {"user_id": user_id, "session": session, "number": number, "role": one.role, "content": one.content}
                for number, one in enumerate(messages, end - len(messages))
            ]
            await connection.execute(insert(Said), rows)
            await self._trim(connection, user_id, session, end - LONGEST)
        return int(min(end, LONGEST))

    async def _trim(self, connection: AsyncConnection, user_id: uuid.UUID, session: str, before: int) -> None:
        """Forget the messages numbered below ``before``."""
        if before <= 0:
            return
        old = delete(Said).where(Said.user_id == user_id, Said.session == session, Said.number < before)
        gone = (await connection.execute(old.returning(func.octet_length(Said.content)))).scalars().all()
        smaller = update(Session).where(Session.user_id == user_id, Session.name == session)
        await connection.execute(smaller.values(bytes=Session.bytes - sum(gone)))

    async def last(self, user_id: uuid.UUID, session: str, count: int) -> list[Message]:
        """The last ``count`` messages, oldest first; none when there is no such session."""
        kept = await self._database.rows(_LAST, {"of": user_id, "name": session, "count": count})
        return [Message(role=role, content=content) for role, content in reversed(kept)]

    async def page(self, user_id: uuid.UUID, after: str, count: int) -> Sequence[KeptSession]:
        """The next ``count`` sessions of ``user_id`` by name, which stays, behind that called ``after``."""
        length = func.least(Session.next_number, LONGEST)
        mine = select(Session.name, length, Session.bytes, Session.expires_at).where(Session.user_id == user_id)
        next_ones = mine.where(Session.name > after, Session.expires_at > func.now()).order_by(Session.name)
        return [KeptSession(*row) for row in await self._database.rows(next_ones.limit(count))]

    async def clear(self, user_id: uuid.UUID, session: str) -> bool:
        """Forget the session. False when there is none."""
        this = delete(Session).where(Session.user_id == user_id, Session.name == session)
        row = await self._database.row(this.returning(Session.expires_at > func.now()))
        return row is not None and bool(row[0])

    async def forget_old(self) -> None:
        """Forget the sessions whose time or user is gone."""
        await self._database.forget("memory.sessions", "expires_at <= now()")
