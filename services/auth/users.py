"""Which users are there?"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from auth.passwords import Passwords
from auth.tables import User
from common.postgres import Database
from common.problems import Problem

USERNAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$"
"""What a user may be called."""


@dataclass(frozen=True)
class Account:
    """A user, without what proves it."""

    id: uuid.UUID
    username: str
    created_at: datetime


class Users:
    """Registers users and checks their passwords."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    async def register(self, username: str, password: str) -> Account:
        """Make a user. Raises 409 when the name (in whatever case) is taken."""
        password_hash = await self._passwords.hash(password)
        statement = (
            insert(User)
            .values(id=uuid.uuid4(), username=username.lower(), password_hash=password_hash)
            .returning(User.id, User.username, User.created_at)
        )
        try:
            async with self._database.connect() as connection:
                row = (await connection.execute(statement)).one()
        except IntegrityError:
            raise Problem(HTTPStatus.CONFLICT, "There is a user of this name already.") from None
        return Account(row.id, row.username, row.created_at)

    async def authenticate(self, username: str, password: str) -> Account | None:
        """The user, when this is its password; none otherwise, after the same time."""
        # A name that nobody can have is looked for all the same, as one that nobody has.
        name = username.lower() if re.fullmatch(USERNAME, username) else ""
        statement = select(User).where(User.username == name)
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        kept = row.password_hash if row else None
        if not await self._passwords.matches(kept, password) or row is None:
            return None
        if self._passwords.outdated(row.password_hash):
            await self._replace(row.id, row.password_hash, await self._passwords.hash(password))
        return Account(row.id, row.username, row.created_at)

    async def _replace(self, user_id: uuid.UUID, old: str, new: str) -> None:
        statement = update(User).where(User.id == user_id, User.password_hash == old).values(password_hash=new)
        async with self._database.connect() as connection:
            await connection.execute(statement)
