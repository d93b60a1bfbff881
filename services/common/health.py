"""Is this service able to work? ``GET /health`` asks each of its stores, all at once, with a short limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

SECONDS = 2

type Check = Callable[[], Awaitable[object]]


class Health(BaseModel):
    """What ``/health`` answers."""

    service: str
    status: Literal["ok", "unavailable"]
    checks: dict[str, Literal["ok", "does not answer"]]


async def passes(check: Check) -> bool:
    """Whether ``check`` ends in time and without an error, whatever the error."""
    try:
        async with asyncio.timeout(SECONDS):
            await check()
    except Exception:
        return False
    return True


def install(app: FastAPI, service: str, checks: Mapping[str, Check]) -> None:
    """Add ``GET /health`` to ``app``: 200 when every check passes, else 503; which one failed is in the body."""

    @app.get("/health", tags=["health"])
    async def health(response: Response) -> Health:
        passed = await asyncio.gather(*(passes(check) for check in checks.values()))
        if not all(passed):
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return Health(
            service=service,
            status="ok" if all(passed) else "unavailable",
            checks={name: "ok" if ok else "does not answer" for name, ok in zip(checks, passed, strict=True)},
        )
