"""Which users are there?"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

from auth.passwords import Passwords
from auth.tables import DeletedUser, User
from common.postgres import Database
from common.problems import Problem

USERNAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$"
"""What a user may be called."""


@dataclass(frozen=True)
class Account:
    """An account, without what proves whose it is."""

    id: uuid.UUID
    username: str
    created_at: datetime
    is_admin: bool
    disabled_at: datetime | None

    @property
    def user_id(self) -> uuid.UUID:
        """Who it is, as those say it who have a credential of it."""
        return self.id


_ACCOUNT = (User.id, User.username, User.created_at, User.is_admin, User.disabled_at)


class Users:
    """Registers users, checks their passwords, changes and deletes them."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    async def register(self, username: str, password: str) -> Account:
        """Make a user. Raises 409 when the name (in whatever case) is taken, 422 when the password is weak."""
        password_hash = await self._passwords.hash(password, username)
        new = insert(User).values(id=uuid.uuid4(), username=username.lower(), password_hash=password_hash)
        try:
            [row] = await self._database.rows(new.returning(*_ACCOUNT))
            return Account(*row)
        except IntegrityError:
            raise Problem(HTTPStatus.CONFLICT, "There is a user of this name already.") from None

    async def authenticate(self, username: str, password: str) -> Account | None:
        """The user, when this is its password and it is not disabled; none otherwise, after the same time."""
        # A name that nobody can have is looked for all the same, as one that nobody has.
        name = username.lower() if re.fullmatch(USERNAME, username) else ""
        statement = select(*_ACCOUNT, User.password_hash).where(User.username == name, User.disabled_at.is_(None))
        row = await self._database.row(statement)
        kept = row.password_hash if row else None
        if not await self._passwords.matches(kept, password) or row is None:
            return None
        if self._passwords.outdated(row.password_hash):
            same = update(User).where(User.id == row.id, User.password_hash == row.password_hash)
            await self._database.rows(same.values(password_hash=await self._passwords.hash_again(password)))
        return Account(*row[:5])

    async def known(self, username: str) -> bool:
        """Whether anybody has this name."""
        named = select(User.id).where(User.username == username.lower().replace("\x00", ""))
        return await self._database.row(named) is not None

    async def change_password(self, account: Account, new: str) -> None:
        """Make ``new`` the password of ``account``. Raises 422 when it is weak."""
        password_hash = await self._passwords.hash(new, account.username)
        await self._database.rows(update(User).where(User.id == account.id).values(password_hash=password_hash))

    async def change(self, username: str, *, disabled: bool | None = None, admin: bool | None = None) -> Account | None:
        """Disable or enable a user, make or unmake it an administrator. None when there is no such user."""
        values: dict[str, object] = {} if disabled is None else {"disabled_at": func.now() if disabled else None}
        if admin is not None:
            values["is_admin"] = admin
        statement = update(User).where(User.username == username.lower()).values(**values).returning(*_ACCOUNT)
        row = await self._database.row(statement)
        return None if row is None else Account(*row)

    async def delete(self, username: str) -> Account | None:
        """Delete a user with its API keys, and let the other services know. None when there is no such user."""
        statement = delete(User).where(User.username == username.lower()).returning(*_ACCOUNT)
        async with self._database.begin() as connection:
            row = (await connection.execute(statement)).one_or_none()
            if row is not None:
                await connection.execute(upsert(DeletedUser).values(id=row.id).on_conflict_do_nothing())
        return None if row is None else Account(*row)
