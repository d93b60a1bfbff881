from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from common import service, tracing
from common.callers import with_scope
from common.identity import Identity, presented
from common.problems import Unavailable
from common.settings import ServiceSettings
from common.texts import Text
from common.tokens import Claims

LIMIT = 1024


class Body(BaseModel):
    text: Text


async def nobody(_: Request) -> None: ...


def make() -> FastAPI:
    async def check() -> None:
        if down:
            raise ConnectionError("gone")

    settings = ServiceSettings(max_body_bytes=LIMIT, request_seconds=0.2)
    app = service.create("thing", settings, resources=[], checks={"store": check}, identify=nobody)

    @app.post("/echo")
    async def echo(body: Body) -> Body:
        return body

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"began"
            await asyncio.sleep(60)

        return StreamingResponse(body())

    @app.get("/away")
    async def away() -> None:
        raise Unavailable("The store") from ConnectionError("secret-in-a-text")

    @app.get("/not-ready")
    async def not_ready() -> None:
        raise Unavailable("The store", "is not ready")

    @app.get("/mistake")
    async def mistake() -> None:
        raise RuntimeError("boom")

    return app


down = False
app = make()


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://thing")


async def chunks(sizes: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


@given(sizes=st.lists(st.integers(0, 700), max_size=8), announced=st.booleans())
def test_a_body_is_refused_exactly_when_it_is_over_the_limit(sizes: list[int], announced: bool) -> None:
    async def ask() -> int:
        async with client() as http:
            content = b"x" * sum(sizes) if announced else chunks(sizes)
            return (await http.post("/echo", content=content, headers={"Content-Type": "application/json"})).status_code

    # What is within the limit is no JSON (400), or nothing at all (422).
    expected = {413} if sum(sizes) > LIMIT else {400, 422}
    assert asyncio.run(ask()) in expected


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"text": "hello"}', 200),
        (b'{"text": " hello "}', 200),
        (b'{"text": ""}', 422),
        (b'{"text": "  "}', 422),
        (b'{"text": "a\\u0000b"}', 422),
        (b'{"text": "\\ud800"}', 422),
        (b'{"text": 3}', 422),
        (b"{}", 422),
        (b"[]", 422),
        (b"", 422),
        (b'{"text": ', 400),
        (b"\xff\xfe", 400),
    ],
)
async def test_bodies(body: bytes, status: int) -> None:
    async with client() as http:
        answer = await http.post("/echo", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    if status != 200:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.json()["detail"].endswith(".")


async def test_what_was_sent_is_not_repeated() -> None:
    async with client() as http:
        answer = await http.post("/echo", json={"text": ["hunter2"], "more": "hunter2"})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


async def test_no_request_takes_longer_than_its_limit() -> None:
    async with client() as http:
        answer = await http.get("/slow")
    assert answer.status_code == 504
    assert answer.json()["detail"] == "The request took longer than its limit of 0.2 seconds."


async def test_an_answer_that_has_begun_is_broken_off() -> None:
    async with client() as http:
        with pytest.raises(TimeoutError):
            await http.get("/endless")


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger().handlers[0].filter(record)
            records.append(record)

    keep = Keep()
    logging.getLogger().addHandler(keep)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(keep)


async def test_what_is_away_is_503_and_its_cause_is_logged_without_its_text() -> None:
    with logged() as records:
        async with client() as http:
            answer = await http.get("/away")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["detail"] == "The store does not answer; try again soon."
    assert [getattr(one, "cause", None) for one in records if one.name == "problems"] == ["builtins.ConnectionError"]
    assert not any("secret-in-a-text" in json.dumps(vars(one), default=str) for one in records)


async def test_what_is_not_ready_has_no_cause_in_the_log() -> None:
    with logged() as records:
        async with client() as http:
            assert (await http.get("/not-ready")).status_code == 503
    assert [getattr(one, "cause", None) for one in records if one.name == "problems"] == [""]


async def test_a_mistake_is_500_with_the_id_under_which_the_log_has_it() -> None:
    with logged() as records:
        async with client() as http:
            answer = await http.get("/mistake", headers={"X-Request-ID": "abc-1"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "abc-1"
    assert "boom" not in answer.text
    [mistake] = [one for one in records if one.exc_info]
    assert vars(mistake)["request_id"] == "abc-1"


async def test_an_id_that_could_do_harm_is_replaced() -> None:
    async with client() as http:
        answer = await http.post("/echo", json={"text": "a"}, headers={"X-Request-ID": "a b\tc"})
    assert answer.headers["X-Request-ID"] != "a b\tc"


@pytest.mark.parametrize(("told", "status"), [({"X-API-Key": "k"}, 200), ({}, 401)])
async def test_who_asks_is_looked_up_once(told: dict[str, str], status: int) -> None:
    """By the trace that a request says it is of, by the route, and by what the endpoint asks for."""
    looked_up = []

    async def identify(request: Request) -> Identity:
        looked_up.append(request.url.path)
        presented(request)
        return Identity(Claims(uuid.uuid4(), "a", "b", 0, datetime.now(UTC), frozenset({"tasks"})), {})

    asked = service.create("thing", ServiceSettings(), resources=[], checks={}, identify=identify)
    stack = asked.build_middleware_stack
    asked.build_middleware_stack = lambda: tracing.Known(stack(), nullcontext)  # type: ignore[method-assign]

    @asked.post("/name")
    async def name(who: Annotated[Identity, with_scope("tasks")]) -> str:
        return who.username

    async with httpx.AsyncClient(transport=httpx.ASGITransport(asked), base_url="http://thing") as http:
        answer = await http.post("/name", json={}, headers={**told, "traceparent": "00-1-2-01"})
        assert answer.status_code == status
        assert (await http.get("/health", headers=told)).status_code == 200
    assert looked_up == ["/name"]


async def test_health_follows_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client() as http:
        assert (await http.get("/health")).json() == {"service": "thing", "status": "ok", "checks": {"store": "ok"}}
        monkeypatch.setattr(f"{__name__}.down", True)
        answer = await http.get("/health")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"store": "does not answer"}


def test_logs_are_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    from common import logs

    logs.configure("thing", "INFO")
    logging.getLogger("uvicorn.error").info("a\nb", extra={"color_message": "x"})
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("here").exception("it failed")
    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert first["message"] == "a\nb"
    assert (first["level"], first["logger"], first["service"]) == ("INFO", "uvicorn.error", "thing")
    assert "color_message" not in first
    assert "ValueError: why" in second["exc_info"]
