"""Who sent this request? Its credential says: an access token (``Authorization: Bearer``), or an API key
(``X-API-Key``, or in the place of the token, as OpenAI's clients send it)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Literal

from starlette.requests import Request

from auth.api_keys import PREFIX, ApiKeys
from auth.tokens import Claims, Tokens
from common.identity import credential
from common.problems import Problem, unauthorized


@dataclass(frozen=True)
class Caller:
    """A user, and by what it is known."""

    user_id: uuid.UUID
    username: str
    method: Literal["token", "api_key"]
    credential_id: str
    expires_at: datetime | None

    def claims(self) -> Claims:
        """The caller's access token. Raises 403 for an API key: it must not make keys that outlive it."""
        if self.method != "token" or self.expires_at is None:
            raise Problem(HTTPStatus.FORBIDDEN, "This takes an access token: log in; an API key will not do.")
        return Claims(self.user_id, self.username, self.credential_id, self.expires_at)


async def identify(request: Request, tokens: Tokens, api_keys: ApiKeys) -> Caller:
    """Who sent ``request``. Raises 401 when no credential of it is good, 503 when that cannot be found out."""
    kind, value = presented(credential(request))
    if kind == "token":
        claims = await tokens.read(value)
        return Caller(claims.user_id, claims.username, "token", claims.token_id, claims.expires_at)
    owner = await api_keys.owner(value)
    if owner is None:
        raise unauthorized("The API key is unknown, expired or revoked.", error="invalid_token")
    return Caller(owner.user_id, owner.username, "api_key", str(owner.key_id), owner.expires_at)


def presented(headers: dict[str, str]) -> tuple[Literal["token", "api_key"], str]:
    """What the headers hold. Raises 401 when it is of no kind that we know, 400 when there are two."""
    if len(headers) > 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "Send one credential: Authorization or X-API-Key, not both.")
    if "X-API-Key" in headers:
        return "api_key", headers["X-API-Key"].strip()
    scheme, _, value = headers["Authorization"].strip().partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise unauthorized('The Authorization header must be "Bearer" and a token or an API key.')
    value = value.strip()
    return ("api_key" if value.startswith(PREFIX) else "token"), value
