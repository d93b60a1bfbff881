"""Who sent this request to ``auth``? Its credential says: an access token (``Authorization: Bearer``), or an API key
(``X-API-Key``, or in the place of the token, as OpenAI's clients send it)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

from starlette.requests import Request

from auth.api_keys import ApiKeys
from auth.tokens import EXCHANGED, Tokens
from common.identity import Identity, presented
from common.problems import Problem, unauthorized
from common.tokens import Claims


@dataclass(frozen=True)
class Caller(Identity):
    """A user, and by what it is known."""

    method: Literal["token", "api_key"]
    expires_at: datetime | None

    def token(self) -> Claims:
        """The caller's access token. Raises 403 for an API key: it must not make keys that outlive it."""
        if self.method != "token":
            raise Problem(HTTPStatus.FORBIDDEN, "This takes an access token: log in; an API key will not do.")
        return self.claims


async def identify(request: Request, tokens: Tokens, api_keys: ApiKeys) -> Caller:
    """Who sent ``request``. Raises 401 when no credential of it is good, 503 when that cannot be found out."""
    headers, kind, value = presented(request)
    if kind == "token":
        claims = await tokens.read(value)
        return Caller(claims, headers, "token", claims.expires_at)
    owner = await api_keys.owner(value)
    if owner is None:
        raise unauthorized("The API key is unknown, expired or revoked.", error="invalid_token")
    now = time.time()
    until = datetime.fromtimestamp(now, UTC) + EXCHANGED
    claims = Claims(
        owner.user_id, owner.username, str(owner.id), now, min(until, owner.expires_at or until),
        frozenset(owner.scopes.split()),
    )  # fmt: skip
    return Caller(claims, headers, "api_key", owner.expires_at)
