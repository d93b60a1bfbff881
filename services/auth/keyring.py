"""Which key signs now, and which signatures still count?

A key is published ``ahead`` of the time when it begins to sign, so that services which fetch the public keys now and
then know it by then. It signs until its successor begins, SIGNING_KEY_SECONDS later; the first login after that time
makes the successor. A key that no longer signs stays good until the last token it may have signed has expired, and is
then deleted. Instances share the keys through PostgreSQL, and look there when they meet a key that they do not know.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from auth.signing import Key, Vault, generate
from auth.tables import SigningKey
from common.postgres import Database, lock
from common.problems import Unavailable

log = logging.getLogger("keyring")

LONGEST_AHEAD = timedelta(minutes=10)
LOOK_AGAIN_SECONDS = 1
"""An unknown key id makes us look into the database, but not more often than this."""


@dataclass(frozen=True)
class Dated:
    """A key and when it was made."""

    key: Key
    created_at: datetime


def still_good(keys: Sequence[Dated], now: datetime, token_life: timedelta) -> list[Dated]:
    """Those of ``keys`` (newest first) whose tokens may not all have expired.

    The last token of a key has expired ``token_life`` after its successor was made.
    """
    successors = [None, *keys][: len(keys)]
    return [
        key
        for key, successor in zip(keys, successors, strict=True)
        if successor is None or successor.created_at + token_life > now
    ]


def signer(keys: Sequence[Dated], now: datetime, ahead: timedelta) -> Dated | None:
    """Which of ``keys`` (newest first) signs at ``now``: the newest that was published long enough, else the oldest."""
    known = [key for key in keys if key.created_at + ahead <= now]
    return known[0] if known else keys[-1] if keys else None


class Keyring:
    """The signing keys, kept in the database and remembered here."""

    def __init__(self, database: Database, vault: Vault, *, signs_for: timedelta, token_life: timedelta) -> None:
        self._database = database
        self._vault = vault
        self._signs_for = signs_for
        self.ahead = min(LONGEST_AHEAD, signs_for / 2)
        # A minute more than a token's life: another instance may sign with the old key a moment longer.
        self._token_life = token_life + self.ahead + timedelta(minutes=1)
        self._keys: list[Dated] = []
        self._looked = -float("inf")
        self._told = False
        self._lock = asyncio.Lock()

    async def current(self) -> Key:
        """The key to sign with now; made when there is none or the newest has signed long enough."""
        if not self._keys or self._keys[0].created_at + self._signs_for <= datetime.now(UTC):
            async with self._lock:
                await self._load(rotate=True)
        found = signer(self._keys, datetime.now(UTC), self.ahead)
        assert found is not None  # noqa: S101 - one was made just now, if there was none
        return found.key

    async def find(self, kid: str) -> Key | None:
        """The key called ``kid``, if its signatures still count."""
        if not self._known(kid):
            await self._look_again()
        return self._known(kid)

    async def public(self) -> list[Key]:
        """Every key whose signatures count or will, newest first; those known last, while the database is away."""
        try:
            await self._look_again()
        except Unavailable:
            if not self._keys:
                raise
        return [one.key for one in still_good(self._keys, datetime.now(UTC), self._token_life)]

    def _known(self, kid: str) -> Key | None:
        good = still_good(self._keys, datetime.now(UTC), self._token_life)
        return next((one.key for one in good if one.key.kid == kid), None)

    async def _look_again(self) -> None:
        async with self._lock:
            if time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
                self._looked, self._told = time.monotonic(), False  # also when it fails
                await self._load(rotate=False)
            elif not self._told:  # a key that is not known may be there all the same
                raise Unavailable("PostgreSQL")

    async def _load(self, *, rotate: bool) -> None:
        async with self._database.begin() as connection:
            if rotate:
                # Until the end of the transaction: of instances that want a new key, the first makes it.
                await lock(connection, "signing keys")
            keys, now = await self._read(connection)
            if rotate and (not keys or keys[0].created_at + self._signs_for <= now):
                keys.insert(0, await self._add(connection))
            good = still_good(keys, now, self._token_life)
            gone = [one.key.kid for one in keys if one not in good]
            if rotate and gone:
                await connection.execute(delete(SigningKey).where(SigningKey.kid.in_(gone)))
        self._keys = good
        self._looked, self._told = time.monotonic(), True

    async def _read(self, connection: AsyncConnection) -> tuple[list[Dated], datetime]:
        now = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        kept = select(SigningKey.kid, SigningKey.private_key, SigningKey.created_at)
        rows = (await connection.execute(kept.order_by(SigningKey.created_at.desc()))).all()
        opened = [(self._vault.open(row.private_key), row) for row in rows]
        if strange := [row.kid for key, row in opened if key is None]:
            log.warning("signing keys of another AUTH_SECRET are left aside", extra={"kids": strange})
        return [Dated(key, row.created_at) for key, row in opened if key is not None], now

    async def _add(self, connection: AsyncConnection) -> Dated:
        key = generate()
        new = insert(SigningKey).values(kid=key.kid, private_key=self._vault.seal(key))
        created_at = (await connection.execute(new.returning(SigningKey.created_at))).scalar_one()
        log.info("a new signing key", extra={"kid": key.kid})
        return Dated(key, created_at)
