"""What does an access token say, and does it still count? Pure, but for the question whether it was revoked.

A token is good for the services in ``aud`` and for what ``scope`` names. ``jti`` is the credential that it came from: a
token that was exchanged for one service has that of the user's token or API key, and ends with it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import jwt
from redis.asyncio import Redis

from common.problems import Problem, unauthorized

ALGORITHM = "ES256"
ISSUER = "vllm-swarm/auth"
SERVICES = ("auth", "memory", "orchestrator")
SCOPES = {
    "account": "the account itself: password, API keys, deletion",
    "memory:read": "read and search sessions and memories",
    "memory:write": "add to them and delete from them",
    "tasks": "ask the model",
    "admin": "other people's accounts",
}


@dataclass(frozen=True)
class Claims:
    """What an access token says."""

    user_id: uuid.UUID
    username: str
    token_id: str
    issued_at: float
    expires_at: datetime
    scopes: frozenset[str]

    def need(self, scope: str) -> None:
        """Raise 403 unless the token is good for ``scope``."""
        if scope not in self.scopes:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"This takes a credential with the scope {scope}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            )


def kid_of(token: str) -> str:
    """The id of the key that ``token`` says it was signed with. Raises 401 when it is no token at all."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except jwt.InvalidTokenError:
        kid = None
    if not isinstance(kid, str):
        raise unauthorized("This is not an access token of ours.", error="invalid_token")
    return kid


def read(token: str, key: Any, audience: str) -> Claims:
    """What ``token`` says. Raises 401 unless ``key`` signed it for ``audience`` and it has not expired."""
    try:
        claims = jwt.decode(
            token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=audience,
            options={"require": ["exp", "iat", "sub", "jti", "name", "aud", "scope"]},
        )  # fmt: skip
        return Claims(
            uuid.UUID(claims["sub"]), claims["name"], claims["jti"], float(claims["iat"]),
            datetime.fromtimestamp(claims["exp"], UTC), frozenset(claims["scope"].split()),
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise unauthorized("The access token has expired.", error="invalid_token") from None
    except jwt.InvalidAudienceError:
        raise unauthorized("The access token is for another service.", error="invalid_token") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError):
        raise unauthorized("This is not an access token of ours.", error="invalid_token") from None


def revoked(token_id: str) -> str:
    """The Redis key that exists when what came from the credential ``token_id`` counts no more."""
    return f"auth:revoked:{token_id}"


def ended(user_id: uuid.UUID) -> str:
    """The Redis key that says until when the tokens of ``user_id`` count no more."""
    return f"auth:ended:{user_id}"


async def still_counts(redis: Redis, claims: Claims) -> None:
    """Raise 401 when what ``claims`` say was revoked. A ``RedisError`` passes: nobody can say then, so it is 503."""
    one, until = await redis.mget(revoked(claims.token_id), ended(claims.user_id))
    if one is not None or (until is not None and claims.issued_at <= float(until)):
        raise unauthorized("The access token was revoked.", error="invalid_token")
