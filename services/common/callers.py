"""Who may call an endpoint? ``Annotated[Identity, callers.with_scope("tasks")]`` says it, to OpenAPI too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer

from common.tokens import SCOPES, Claims

# They only say in OpenAPI what there is: which credential counts is found out in one place, ``common.identity``.
_TOKEN = OAuth2PasswordBearer("/token", scheme_name="token", scopes=SCOPES, auto_error=False)
_API_KEY = APIKeyHeader(name="X-API-Key", scheme_name="api_key", auto_error=False)

WHO = "swarm.who"
"""Where a request's scope has its caller, once that is known."""


class Callers[Who: Any]:
    """Those who call this service, as ``identify`` knows them: something with ``claims``."""

    def __init__(self, identify: Callable[[Request], Awaitable[Who]]) -> None:
        self.identify = identify

    def with_scope(self, *scopes: str) -> Any:
        """A dependency: the caller, whose credential must be good for ``scopes``."""

        async def caller(
            request: Request, _: object = Security(_TOKEN, scopes=scopes), __: object = Depends(_API_KEY)
        ) -> Who:
            who: Who = request.scope.get(WHO) or await self.identify(request)
            claims: Claims = who.claims
            for scope in scopes:
                claims.need(scope)
            return who

        return Depends(caller)
