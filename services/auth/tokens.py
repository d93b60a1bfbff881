"""Issues access tokens, exchanges and ends them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
from redis.asyncio import Redis

from auth.keyring import Keyring
from common import tokens
from common.problems import unauthorized
from common.tokens import Claims

EXCHANGED = timedelta(minutes=15)
"""How long a token that was exchanged for one service is good, at most: longer than an answer takes."""


class Tokens:
    """The access tokens of all users."""

    def __init__(self, keyring: Keyring, redis: Redis, life: timedelta) -> None:
        self._keyring = keyring
        self._redis = redis
        self._life = life

    def new(self, user_id: uuid.UUID, username: str, scopes: Iterable[str], life: timedelta) -> Claims:
        """What a token of ``user_id`` says that is good for ``life`` from now on."""
        now = time.time()
        return Claims(
            user_id, username, uuid.uuid4().hex, now, datetime.fromtimestamp(now, UTC) + life, frozenset(scopes)
        )

    def exchanged(self, claims: Claims, *, lasting: bool) -> Claims:
        """The same, for as long as an exchanged token is good; if it is not ``lasting`` no longer than before."""
        until = datetime.now(UTC) + EXCHANGED
        return replace(claims, expires_at=until if lasting else min(claims.expires_at, until))

    async def sign(self, claims: Claims, audience: Iterable[str]) -> str:
        """The token that says ``claims`` to the services of ``audience``."""
        key = await self._keyring.current()
        said = {
            "iss": tokens.ISSUER, "aud": list(audience), "sub": str(claims.user_id), "name": claims.username,
            "jti": claims.token_id, "scope": " ".join(sorted(claims.scopes)),
            "iat": claims.issued_at, "exp": int(claims.expires_at.timestamp()),
        }  # fmt: skip
        return jwt.encode(said, key.private, algorithm=tokens.ALGORITHM, headers={"kid": key.kid})

    async def read(self, token: str) -> Claims:
        """What ``token`` says.

        Raises 401 when it is not ours, has expired or was revoked; 503 when Redis cannot say whether it was.
        """
        key = await self._keyring.find(tokens.kid_of(token))
        if key is None:
            raise unauthorized("The access token was not signed here.", error="invalid_token")
        claims = tokens.read(token, key.private.public_key(), "auth")
        await tokens.still_counts(self._redis, claims)
        return claims

    async def revoke(self, credential_id: str, until: datetime) -> None:
        """What came from this credential counts no more. Remembered ``until`` its last token has expired."""
        await self._redis.set(tokens.revoked(credential_id), "1", exat=int(until.timestamp()) + 1)

    async def end_all(self, user_id: uuid.UUID) -> None:
        """No token counts any more that ``user_id`` has now."""
        life = int((self._life + EXCHANGED).total_seconds()) + 1
        await self._redis.set(tokens.ended(user_id), repr(time.time()), ex=life)
