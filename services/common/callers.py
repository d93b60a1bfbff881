"""Who may call an endpoint? Whoever is known, and a route asks that before it reads a body.

``Annotated[Identity, with_scope("tasks")]`` says what the caller's credential must be good for, to OpenAPI too. An
endpoint that says nothing takes a credential all the same.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Depends, Request, Response, Security, params
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer

from common.problems import TooMany
from common.tokens import SCOPES

# They only say in OpenAPI what there is: which credential counts is found out in one place, ``common.identity``.
_TOKEN = OAuth2PasswordBearer("/token", scheme_name="token", scopes=SCOPES, auto_error=False)
_API_KEY = APIKeyHeader(name="X-API-Key", scheme_name="api_key", auto_error=False)

HELD_SECONDS, held = 1, asyncio.Semaphore(64)
"""A refusal for too much waits this long, so many at a time in a process: others have its time, and connections."""

WHO = "swarm.who"
"""Where a request's scope has its caller, once that is known, or the error because of which nobody is."""


async def who_sent(request: Request) -> Any:
    """Who sent ``request``: ``identify`` of the application is asked once, and raises when it is nobody."""
    if WHO not in request.scope:
        request.scope[WHO] = await request.app.state.identify(request)
    if isinstance(request.scope[WHO], Exception):
        raise request.scope[WHO]
    return request.scope[WHO]


class Gate(params.Depends):
    """Among an endpoint's ``dependencies``, what is asked in the place of ``who_sent``."""


async def _anybody(_: Request) -> None: ...


OPEN = Gate(_anybody)
"""The endpoint takes no credential."""


class Route(APIRoute):
    """Asks who sent a request before FastAPI reads its body; a refusal for too much is sent late."""

    def get_route_handler(self) -> Any:  # noqa: D102
        handle = super().get_route_handler()
        gates: list[Any] = [one.dependency for one in self.dependencies if isinstance(one, Gate)] or [who_sent]

        async def asked(request: Request) -> Response:
            try:
                for gate in gates:
                    await gate(request)
                return await handle(request)
            except TooMany:
                if not held.locked():
                    async with held:
                        await asyncio.sleep(HELD_SECONDS)
                raise

        return asked


def with_scope(*scopes: str) -> Any:
    """A dependency: the caller, whose credential must be good for ``scopes``."""

    async def caller(
        request: Request, _: object = Security(_TOKEN, scopes=scopes), __: object = Depends(_API_KEY)
    ) -> Any:
        who = await who_sent(request)
        for scope in scopes:
            who.claims.need(scope)
        return who

    return Depends(caller)
