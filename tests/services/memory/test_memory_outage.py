"""memory while what it stands on is away, and when it is back."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from neighbours import Neighbour, bearer
from outage import Link

from common.identity import Identities

USER = bearer(f"user-{uuid.uuid4()}")


@pytest.fixture
async def http(
    app: Callable[..., Any], linked: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]
) -> httpx.AsyncClient:
    return await started(app(linked))


async def search(http: httpx.AsyncClient) -> int:
    return (await http.post("/search", json={"query": "a"}, headers=USER)).status_code


async def session(http: httpx.AsyncClient) -> int:
    return (await http.get("/sessions/s/messages", headers=USER)).status_code


@pytest.mark.parametrize("how", ["cut", "freeze"])
@pytest.mark.parametrize("store", ["postgres", "redis"])
async def test_one_store_away(
    http: httpx.AsyncClient, store: str, how: str, request: pytest.FixtureRequest,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    link = request.getfixturevalue(f"{store}_link")
    kept = (await http.post("/memories", json={"text": "before the outage"}, headers=USER)).json()
    if how == "cut":
        await link.cut()
    else:
        link.freeze()
    # Without PostgreSQL there is nothing to be found; without Redis nobody can say what was revoked.
    assert await search(http) in (503, 504)
    assert await session(http) in (503, 504)
    health = await http.get("/health")
    assert health.status_code == 503
    assert health.json()["checks"][store] == "does not answer"
    await link.restore()

    async def back() -> bool:
        return (await search(http), await session(http)) == (200, 200)

    await eventually(back)
    assert (await http.get(f"/memories/{kept['id']}", headers=USER)).json() == kept


async def test_a_connection_that_postgres_lost_fails_no_request(
    http: httpx.AsyncClient, postgres_link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await session(http) == 200
    await postgres_link.cut()
    await postgres_link.restore()
    assert await session(http) == 200  # the driver has seen that it broke
    postgres_link.lose()
    monkeypatch.setattr("common.postgres.IDLE_SECONDS", 0)
    assert await session(http) == 200  # nobody has


async def test_auth_away(http: httpx.AsyncClient, auth: Neighbour) -> None:
    able = auth.answer
    auth.answer = lambda *_: (500, {})
    answer = await http.post("/search", json={"query": "a"}, headers=USER)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The auth service answered with 500; try again soon."
    auth.answer = able
    assert await search(http) == 200
    auth.answer = lambda *_: (500, {})
    assert await search(http) == 200  # its keys are known
    for identities in (one for one in gc.get_objects() if isinstance(one, Identities)):
        identities._fresh_until = 0.0
        identities._known.clear()
    assert await search(http) == 200  # and stay good
    key = await http.post("/search", json={"query": "a"}, headers={"X-API-Key": "vls_good"})
    assert key.status_code == 503


async def test_auth_refuses_connections(
    app: Callable[..., Any], database: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]
) -> None:
    http = await started(app(database, auth_url="http://127.0.0.1:9"))
    answer = await http.post("/search", json={"query": "a"}, headers=USER)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The auth service does not answer; try again soon."
