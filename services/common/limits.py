"""What may one request cost? A body of so many bytes, and so many seconds.

Plain ASGI rather than Starlette's ``BaseHTTPMiddleware``: that one buffers streams and costs a task a request.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.problems import Problem, response

DRAIN_FACTOR = 16
"""A body that is too large is still read, and thrown away, up to this many times the limit: a client that
is busy sending would otherwise see a broken connection instead of the answer."""


class BodyLimit:
    """Refuses a body of more than ``limit`` bytes with 413, whether its length was announced or not.

    FastAPI's own limit answers in plain text, and while the client is still sending: most clients then report a
    broken connection.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is small enough."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.limit:
            await self._drain(receive)
            too_large = self._refusal()
            await response(too_large.status_code, too_large.detail)(scope, receive, send)
            return None
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                await self._drain(receive)
                raise self._refusal()
            return message

        return await self.app(scope, counted, send)

    def _refusal(self) -> Problem:
        return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than the limit of {self.limit} bytes.")

    async def _drain(self, receive: Receive) -> None:
        left = self.limit * DRAIN_FACTOR
        more = True
        while more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)


class Deadline:
    """Ends a request after ``seconds``: with 504, or by closing the connection when the answer has begun."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and watch the clock."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds) as limit:
                await self.app(scope, receive, watched)
        except TimeoutError:
            if started or not limit.expired():
                raise
            late = response(
                HTTPStatus.GATEWAY_TIMEOUT, f"The request took longer than its limit of {self.seconds:g} seconds."
            )
            await late(scope, receive, send)
        return None
