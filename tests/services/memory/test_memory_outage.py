"""memory while what it stands on is away, and when it is back."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest
from neighbours import Neighbour

USER = {"Authorization": f"Bearer good-{uuid.uuid4()}"}


@pytest.fixture
async def http(
    app: Callable[..., Any], linked: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]
) -> httpx.AsyncClient:
    return await started(app(linked))


async def search(http: httpx.AsyncClient) -> int:
    with anyio.fail_after(12):
        return (await http.post("/search", json={"query": "a"}, headers=USER)).status_code


async def session(http: httpx.AsyncClient) -> int:
    with anyio.fail_after(12):
        return (await http.get("/sessions/s/messages", headers=USER)).status_code


@pytest.mark.parametrize("how", ["cut", "freeze"])
@pytest.mark.parametrize("store", ["postgres", "redis"])
async def test_one_store_away(
    http: httpx.AsyncClient, store: str, how: str, request: pytest.FixtureRequest,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    needs, needs_not = (search, session) if store == "postgres" else (session, search)
    link = request.getfixturevalue(f"{store}_link")
    kept = (await http.post("/memories", json={"text": "before the outage"}, headers=USER)).json()
    if how == "cut":
        await link.cut()
    else:
        link.freeze()
    assert await needs(http) in (503, 504)
    assert await needs_not(http) == 200
    with anyio.fail_after(12):
        health = await http.get("/health")
    assert health.status_code == 503
    assert health.json()["checks"][store] == "does not answer"
    await link.restore()

    async def back() -> bool:
        return await needs(http) == 200

    await eventually(back)
    assert (await http.get(f"/memories/{kept['id']}", headers=USER)).json() == kept


async def test_auth_away(http: httpx.AsyncClient, auth: Neighbour) -> None:
    auth.answer = lambda *_: (500, {})
    answer = await http.post("/search", json={"query": "a"}, headers=USER)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The auth service answered with 500; try again soon."


async def test_auth_refuses_connections(
    app: Callable[..., Any], database: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]
) -> None:
    http = await started(app(database, auth_url="http://127.0.0.1:9"))
    answer = await http.post("/search", json={"query": "a"}, headers=USER)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The auth service does not answer; try again soon."
