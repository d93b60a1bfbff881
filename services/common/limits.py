"""What may one request cost? A body of so many bytes, and so many seconds.

Plain ASGI rather than Starlette's ``BaseHTTPMiddleware``: that one buffers streams and costs a task a request.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.problems import Problem, response

LEAVING_SECONDS = 1
"""Who is answered before its body has come may send on, until nothing has come for this long: a client that is busy
sending would otherwise see a broken connection instead of the answer."""


class BodyLimit:
    """Refuses a body of more than ``limit`` bytes with 413 when it is read, whether its length was announced or not.
    After an answer to what has not all been read, the rest is thrown away and the connection closed. (FastAPI's own
    limit answers in plain text, and reads no more.)"""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is small enough."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        received, leaving = 0, False

        async def counted() -> Message:
            nonlocal received, whole
            message = await receive()
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self.limit:
                sentence = f"The body is larger than the limit of {self.limit} bytes."
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
            return message

        async def answered(message: Message) -> None:
            nonlocal leaving
            if message["type"] == "http.response.start" and not whole:
                leaving = True
                MutableHeaders(scope=message)["Connection"] = "close"
            await send({**message, "more_body": True} if leaving else message)

        await self.app(scope, counted, answered)
        if leaving:
            with suppress(TimeoutError):
                while not whole:
                    async with asyncio.timeout(LEAVING_SECONDS):
                        whole = not (await receive()).get("more_body", False)
            await send({"type": "http.response.body"})
        return None


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
