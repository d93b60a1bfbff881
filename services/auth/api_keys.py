"""Which API keys does a user have, and whose is this one?

A key is 32 random bytes, so a fast digest protects it as well as a slow one would: nobody can try 2²⁵⁶ keys.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, insert, or_, select, update

from auth.tables import ApiKey, User
from common.postgres import Database

PREFIX = "vls_"
"""What every key begins with, so that people and secret scanners know one when they see it."""


@dataclass(frozen=True)
class Described:
    """A key, without the key itself."""

    id: uuid.UUID
    name: str
    hint: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class Owner:
    """Whose key it is."""

    key_id: uuid.UUID
    user_id: uuid.UUID
    username: str
    expires_at: datetime | None


def new_key() -> str:
    """A key that nobody has yet."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> bytes:
    """What is kept of ``key``."""
    return hashlib.sha256(key.encode()).digest()


_DESCRIPTION = (ApiKey.id, ApiKey.name, ApiKey.hint, ApiKey.created_at, ApiKey.expires_at)
_GOOD = (ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))


class ApiKeys:
    """The API keys of all users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, user_id: uuid.UUID, name: str, life: timedelta | None) -> tuple[str, Described]:
        """Make a key of ``user_id``, good for ``life`` or until revoked. It is shown here and never again."""
        key = new_key()
        statement = (
            insert(ApiKey)
            .values(
                id=uuid.uuid4(),
                user_id=user_id,
                name=name,
                hint=key[: len(PREFIX) + 4],
                digest=digest(key),
                expires_at=None if life is None else func.now() + life,
            )
            .returning(*_DESCRIPTION)
        )
        async with self._database.connect() as connection:
            return key, Described(*(await connection.execute(statement)).one())

    async def list(self, user_id: uuid.UUID) -> Sequence[Described]:
        """The keys of ``user_id`` that work, oldest first."""
        statement = (
            select(*_DESCRIPTION).where(ApiKey.user_id == user_id, *_GOOD).order_by(ApiKey.created_at, ApiKey.id)
        )
        async with self._database.connect() as connection:
            return [Described(*row) for row in await connection.execute(statement)]

    async def revoke(self, user_id: uuid.UUID, key_id: uuid.UUID) -> bool:
        """Make a key worthless from now on. False when ``user_id`` has no such key that works."""
        statement = (
            update(ApiKey)
            .where(ApiKey.id == key_id, ApiKey.user_id == user_id, *_GOOD)
            .values(revoked_at=func.now())
            .returning(ApiKey.id)
        )
        async with self._database.connect() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def owner(self, key: str) -> Owner | None:
        """Whose key it is; none when nobody's, revoked or expired."""
        statement = (
            select(ApiKey.id, User.id, User.username, ApiKey.expires_at)
            .join(User, User.id == ApiKey.user_id)
            .where(ApiKey.digest == digest(key), *_GOOD)
        )
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else Owner(*row)
