"""Who is asking? A service checks access tokens itself, with the public keys of ``auth``; for an API key it asks there.

Keys are fetched once in ``max-age`` seconds and stay good while ``auth`` is away. A credential that was good is not
looked at again for a minute; but whether it was revoked, Redis says, each time: it is refused at once, everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from weakref import WeakValueDictionary

import httpx
import jwt
from redis.asyncio import Redis
from starlette.requests import Request

from common import tokens
from common.calls import call
from common.problems import Problem, Unavailable, unauthorized
from common.tokens import Claims

PREFIX = "vls_"
"""What every API key begins with, so that people and secret scanners know one when they see it."""

LOOK_AGAIN_SECONDS = 1
"""An unknown key id makes us fetch the keys, but not more often than this."""

KNOWN, KNOWN_SECONDS = 4096, 60  # credentials, by their digests; when there are more, all are forgotten


@dataclass(frozen=True)
class Identity:
    """Who sent a request. ``claims`` are those of its token, or of one that its credential can be exchanged for;
    ``headers`` carried that."""

    claims: Claims
    headers: dict[str, str] = field(repr=False)

    @property
    def user_id(self) -> uuid.UUID:
        """Who it is."""
        return self.claims.user_id

    @property
    def username(self) -> str:
        """What it is called."""
        return self.claims.username


def presented(request: Request) -> tuple[dict[str, str], str, str]:
    """The request's headers that carry its credential, of which kind that is (``token`` or ``api_key``), and its value.
    Raises 401 when there is none of a kind that we know, 400 when there are two."""
    headers = {name: request.headers[name] for name in ("Authorization", "X-API-Key") if name in request.headers}
    if not headers:
        raise unauthorized("Send a bearer token (Authorization) or an API key (X-API-Key).")
    if len(headers) > 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "Send one credential: Authorization or X-API-Key, not both.")
    if "X-API-Key" in headers:
        return headers, "api_key", headers["X-API-Key"].strip()
    scheme, _, value = headers["Authorization"].strip().partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise unauthorized('The Authorization header must be "Bearer" and a token or an API key.')
    value = value.strip()
    return headers, ("api_key" if value.startswith(PREFIX) else "token"), value


class Identities:
    """Knows who sends requests to ``service``."""

    def __init__(self, service: str, auth: httpx.AsyncClient, redis: Redis) -> None:
        self._service = service
        self._auth = auth
        self._redis = redis
        self._known: dict[bytes, tuple[Claims, float]] = {}
        self._exchanging: dict[tuple[bytes, str], asyncio.Task[str]] = {}
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._keys: dict[str, Any] = {}
        self._fetched = -float("inf")
        self._fresh_until = -float("inf")
        self._lock = asyncio.Lock()

    async def identify(self, request: Request) -> Identity:
        """Who sent ``request``: raises 401 when its credential is not good, 503 when that cannot be found out."""
        headers, kind, value = presented(request)
        digest = hashlib.sha256(f"{kind} {value}".encode()).digest()
        async with self._turns.setdefault(digest, asyncio.Lock()):
            await asyncio.sleep(0)  # of many requests with one credential one at a time: others come between them
        if (known := self._known.get(digest)) and time.time() < known[1]:
            with suppress(Problem):  # an API key outlives the tokens that it was exchanged for
                await tokens.still_counts(self._redis, known[0])
                return Identity(known[0], headers)
        if kind == "api_key":
            value = await self.exchange(headers, self._service)
        claims = tokens.read(value, await self._key(tokens.kid_of(value)), self._service)
        await tokens.still_counts(self._redis, claims)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[digest] = claims, min(time.time() + KNOWN_SECONDS, claims.expires_at.timestamp())
        return Identity(claims, headers)

    async def exchange(self, headers: dict[str, str], audience: str) -> str:
        """A token of the same user that is good for ``audience`` alone, and for a short time. Many who want the same at
        once have one."""
        wanted = hashlib.sha256(repr(headers).encode()).digest(), audience
        if wanted not in self._exchanging:
            self._exchanging[wanted] = asyncio.create_task(self._exchange(headers, audience))
            self._exchanging[wanted].add_done_callback(lambda _: self._exchanging.pop(wanted))
        return await asyncio.shield(self._exchanging[wanted])

    async def _exchange(self, headers: dict[str, str], audience: str) -> str:
        # What goes to another service is for work that may end after the credential has.
        wanted = {"audience": audience, "lasting": audience != self._service}
        answer = await call(
            "The auth service", self._auth, "POST", "/exchange", headers=headers, json=wanted, repeatable=True
        )
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise unauthorized(answer.json()["detail"])
        if answer.status_code != httpx.codes.OK:
            raise Unavailable("The auth service", f"answered with {answer.status_code}")
        return str(answer.json()["access_token"])

    async def _key(self, kid: str) -> Any:
        if kid not in self._keys or time.monotonic() > self._fresh_until:
            async with self._lock:
                await self._fetch(needed=kid not in self._keys)
        if kid not in self._keys:
            raise unauthorized("The access token was not signed here.", error="invalid_token")
        return self._keys[kid]

    async def _fetch(self, *, needed: bool) -> None:
        now = time.monotonic()
        if now - self._fetched < LOOK_AGAIN_SECONDS or (not needed and now <= self._fresh_until):
            return
        try:
            answer = await call("The auth service", self._auth, "GET", "/jwks", headers={}, repeatable=True)
        except Unavailable:
            if needed:
                raise
            self._fetched = now
            return
        self._fetched = now  # not before: who leaves meanwhile has not asked
        age = re.search(r"max-age=(\d+)", answer.headers.get("Cache-Control", ""))
        self._fresh_until = now + (int(age[1]) if age else 0)
        self._keys = {key.key_id: key.key for key in jwt.PyJWKSet.from_dict(answer.json()).keys if key.key_id}
