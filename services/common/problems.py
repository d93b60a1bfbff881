"""How is a request refused? As a problem document (RFC 9457) whose ``detail`` is one sentence.

The input is never repeated in it: it may be a password.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from common import metrics
from common.logs import request_id

log = logging.getLogger("problems")


class Problem(HTTPException):
    """A refusal with ``status``: ``detail`` says why, in one sentence; ``more`` are extra members."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(status_code=status, detail=detail, headers=headers)
        self.more = more


class Unavailable(Problem):
    """503: something this service stands on (``what``) does not answer now."""

    def __init__(self, what: str, why: str = "does not answer") -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, f"{what} {why}; try again soon.", headers={"Retry-After": "1"})
        self.what = what


class Busy(Unavailable):
    """503: this service has more to do than it can. What it would have asked may be well."""

    def __init__(self) -> None:
        super().__init__("This service", "has too much to do")
        metrics.REFUSED.labels("busy").inc()


class TooMany(Problem):
    """429: one user, or address, has had as much of something as there is for one (``why``: a word for the metrics). In
    so many ``seconds`` there may be more."""

    def __init__(self, why: str, detail: str, seconds: int = 1, headers: Mapping[str, str] = {}) -> None:
        super().__init__(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(seconds), **headers})
        metrics.REFUSED.labels(why).inc()


def unauthorized(detail: str, **more: Any) -> Problem:
    """401, with the challenge that HTTP asks for."""
    return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="vllm-swarm"'}, **more)


def response(
    status: int, detail: str, headers: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None
) -> Response:
    """The problem document as a response."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **(more or {})}
    if current := request_id.get():
        body["request_id"] = current
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with a problem document."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(RedisError, _no_redis)


def _answer(request: Request, status: int, detail: str, headers: Any = None, more: Any = None) -> Response:
    """In OpenAI's form where OpenAI's clients ask, else a problem document."""
    if not request.url.path.startswith("/v1/"):
        return response(status, detail, headers, more)
    status = HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = (more or {}).get("code") or HTTPStatus(status).phrase.lower().replace(" ", "_")
    error = {"message": detail, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, dict(headers or {}))


async def _refused(request: Request, error: Any) -> Response:
    if isinstance(error, Unavailable) and not isinstance(error, Busy):
        # Without its text: a driver's messages can hold what was sent.
        cause = type(error.__cause__) if error.__cause__ else None
        log.warning(error.detail, extra={"cause": f"{cause.__module__}.{cause.__qualname__}" if cause else ""})
        metrics.UNAVAILABLE.labels(error.what).inc()
    return _answer(request, error.status_code, error.detail, error.headers, getattr(error, "more", None))


async def _malformed(request: Request, error: Any) -> Response:
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return _answer(request, HTTPStatus.BAD_REQUEST, "The body is not valid JSON.")
    errors = [{"where": ".".join(str(part) for part in one["loc"]), "what": one["msg"]} for one in found]
    sentence = "; ".join(f"{one['where']}: {one['what']}" for one in errors)
    sentence = f"The request is not as asked for: {sentence}."
    return _answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, sentence, more={"errors": errors})


async def _no_redis(request: Request, error: Exception) -> Response:
    unavailable = Unavailable("Redis")
    unavailable.__cause__ = error
    return await _refused(request, unavailable)
