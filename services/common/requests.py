"""What was asked, what was answered, how long did it take? One log line a request, and an id for it."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import metrics
from common.logs import address, request_id
from common.problems import response

log = logging.getLogger("requests")

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Takes over or makes the request's id, sends it back as ``X-Request-ID``, logs the request when it is done.

    The query string and the headers are not logged: credentials travel there.
    """

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, then log."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        current = given if _HARMLESS.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(current)
        address.set((scope.get("client") or ("", 0))[0])
        began = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            log.exception("a mistake of this service")
            if status:  # the answer has begun: all that is left is to break it off
                raise
            mistake = response(500, "This service made a mistake; its log says more.")
            await mistake(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - began
            metrics.answered(self._service, scope, status, seconds)
            level = logging.DEBUG if scope["path"] == "/health" and status == 200 else logging.INFO
            log.log(
                level,
                "%s %s %s", scope["method"], scope["path"], status,
                extra={"method": scope["method"], "path": scope["path"], "status": status,
                       "milliseconds": round(seconds * 1000, 1)},
            )  # fmt: skip
            request_id.reset(token)
        return None
