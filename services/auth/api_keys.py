"""Which API keys does a user have, and whose is this one?

A key is 32 random bytes, so a fast digest protects it as well as a slow one would: nobody can try 2²⁵⁶ keys.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ARRAY, Row, String, func, insert, or_, select, update

from auth.tables import ApiKey, User
from common.identity import PREFIX
from common.postgres import Database, lock
from common.problems import Problem


class Described(BaseModel):
    """A key, as far as it can be shown again."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    name: str
    hint: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None


def new_key() -> str:
    """A key that nobody has yet."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> bytes:
    """What is kept of ``key``."""
    return hashlib.sha256(key.encode()).digest()


_SCOPES = func.string_to_array(ApiKey.scopes, " ", type_=ARRAY(String)).label("scopes")
_DESCRIPTION = (ApiKey.id, ApiKey.name, ApiKey.hint, _SCOPES, ApiKey.created_at, ApiKey.expires_at)
_GOOD = (ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))


class ApiKeys:
    """The API keys of all users."""

    def __init__(self, database: Database, most: int) -> None:
        """A user may have ``most`` that work."""
        self._database = database
        self._most = most

    async def create(
        self, user_id: uuid.UUID, name: str, scopes: Iterable[str], life: timedelta
    ) -> tuple[str, Described]:
        """Make a key of ``user_id``, good for ``scopes`` and for ``life``. It is shown here and never again. Raises 409
        when there are too many."""
        key = new_key()
        of_key = {"hint": key[: len(PREFIX) + 4], "digest": digest(key), "scopes": " ".join(sorted(scopes))}
        new = insert(ApiKey).values(id=uuid.uuid4(), user_id=user_id, name=name, expires_at=func.now() + life, **of_key)
        working = select(func.count()).select_from(ApiKey).where(ApiKey.user_id == user_id, *_GOOD)
        async with self._database.begin() as connection:
            await lock(connection, f"API keys of {user_id}")
            if (await connection.execute(working)).scalar_one() >= self._most:
                raise Problem(HTTPStatus.CONFLICT, f"You may have {self._most} API keys: revoke one.")
            return key, Described.model_validate((await connection.execute(new.returning(*_DESCRIPTION))).one())

    async def list(self, user_id: uuid.UUID) -> Sequence[Described]:
        """The keys of ``user_id`` that work, oldest first."""
        mine = select(*_DESCRIPTION).where(ApiKey.user_id == user_id, *_GOOD)
        rows = await self._database.rows(mine.order_by(ApiKey.created_at, ApiKey.id))
        return [Described.model_validate(row) for row in rows]

    async def revoke(self, user_id: uuid.UUID, key_id: uuid.UUID) -> None:
        """Make a key of ``user_id`` worthless from now on."""
        statement = update(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id, *_GOOD)
        await self._database.rows(statement.values(revoked_at=func.now()))

    async def owner(self, key: str) -> Row[Any] | None:
        """The key, and its user's ``user_id`` and ``username``; none when it is nobody's, revoked or expired."""
        statement = (
            select(ApiKey.id, User.id.label("user_id"), User.username, ApiKey.scopes, ApiKey.expires_at)
            .join(User, User.id == ApiKey.user_id)
            .where(ApiKey.digest == digest(key), User.disabled_at.is_(None), *_GOOD)
        )
        return await self._database.row(statement)
