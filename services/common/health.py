"""Is this service able to work? ``GET /health`` asks each of its stores, all at once, with a short limit.

Anybody may ask, so the stores are asked once a second at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from common.callers import OPEN

SECONDS = 2
FRESH_SECONDS = 1

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
    lock = asyncio.Lock()
    known: tuple[float, list[bool]] = (float("-inf"), [])

    @app.get("/health", tags=["health"], dependencies=[OPEN])
    async def health(response: Response) -> Health:
        nonlocal known
        async with lock:
            if time.monotonic() - known[0] >= FRESH_SECONDS:
                passed = await asyncio.gather(*(passes(check) for check in checks.values()))
                known = (time.monotonic(), passed)
        passed = known[1]
        if not all(passed):
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return Health(
            service=service,
            status="ok" if all(passed) else "unavailable",
            checks={name: "ok" if ok else "does not answer" for name, ok in zip(checks, passed, strict=True)},
        )
