"""What is in an access token, and is one still good?"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from auth.keyring import Keyring
from auth.revocations import Revocations
from auth.signing import ALGORITHM
from common.problems import unauthorized

ISSUER = "vllm-swarm/auth"


@dataclass(frozen=True)
class Claims:
    """What an access token says."""

    user_id: uuid.UUID
    username: str
    token_id: str
    expires_at: datetime


class Tokens:
    """Issues access tokens and reads them."""

    def __init__(self, keyring: Keyring, revocations: Revocations) -> None:
        self._keyring = keyring
        self._revocations = revocations

    async def issue(self, user_id: uuid.UUID, username: str, life: timedelta) -> str:
        """A token of ``user_id`` that is good for ``life``."""
        now = datetime.now(UTC)
        key = await self._keyring.current()
        claims = {
            "iss": ISSUER, "sub": str(user_id), "name": username, "jti": uuid.uuid4().hex,
            "iat": now, "exp": now + life,
        }  # fmt: skip
        return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid})

    async def read(self, token: str) -> Claims:
        """What ``token`` says.

        Raises 401 when it is not ours, has expired or was revoked; 503 when Redis cannot say whether it was.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = await self._keyring.find(kid) if isinstance(kid, str) else None
            if key is None:
                raise unauthorized("The access token was not signed here.", error="invalid_token")
            claims = jwt.decode(
                token, key.public, algorithms=[ALGORITHM], issuer=ISSUER,
                options={"require": ["exp", "iat", "sub", "jti", "name"]},
            )  # fmt: skip
            read = Claims(
                uuid.UUID(claims["sub"]), claims["name"], claims["jti"],
                datetime.fromtimestamp(claims["exp"], UTC),
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise unauthorized("The access token has expired.", error="invalid_token") from None
        except jwt.InvalidTokenError:
            raise unauthorized("This is not an access token of ours.", error="invalid_token") from None
        if await self._revocations.revoked(read.token_id):
            raise unauthorized("The access token was revoked.", error="invalid_token")
        return read

    async def revoke(self, claims: Claims) -> None:
        """Make the token of ``claims`` worthless from now on."""
        await self._revocations.revoke(claims.token_id, claims.expires_at)
