"""Who is asking? ``auth`` knows: each request's credential is sent to its ``/verify``.

Nothing is cached: a revoked key or token is refused at once, everywhere.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from http import HTTPStatus

import httpx
from starlette.requests import Request

from common.calls import call
from common.problems import Problem, Unavailable, unauthorized


@dataclass(frozen=True)
class Identity:
    """A user, and the headers that prove it (kept to call other services in the user's name)."""

    user_id: uuid.UUID
    username: str
    headers: dict[str, str] = field(repr=False)


def credential(request: Request) -> dict[str, str]:
    """The request's headers that carry a credential. Raises 401 when there are none."""
    headers = {name: request.headers[name] for name in ("Authorization", "X-API-Key") if name in request.headers}
    if not headers:
        raise unauthorized("Send a bearer token (Authorization) or an API key (X-API-Key).")
    return headers


async def identify(auth: httpx.AsyncClient, request: Request) -> Identity:
    """Who sent ``request``: raises 401 when ``auth`` does not know the credential, 503 when it does not answer."""
    headers = credential(request)
    answer = await call("The auth service", auth, "POST", "/verify", headers=headers, repeatable=True)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise unauthorized(answer.json()["detail"])
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise Problem(HTTPStatus.BAD_REQUEST, answer.json()["detail"])
    if answer.status_code != httpx.codes.OK:
        raise Unavailable("The auth service", f"answered with {answer.status_code}")
    who = answer.json()
    return Identity(uuid.UUID(who["user_id"]), who["username"], headers)
