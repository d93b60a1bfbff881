"""auth while its stores are away, and when they are back."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from auth.app import create_app
from auth.settings import AuthSettings

PASSWORD = "correct horse"


@pytest.fixture
async def http(linked: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]) -> httpx.AsyncClient:
    return await started(
        create_app(AuthSettings(**{"auth_secret": secrets.token_hex(32), "rate_limit_per_minute": 1000, **linked}))
    )


@pytest.fixture
async def credentials(http: httpx.AsyncClient) -> tuple[dict[str, str], dict[str, str]]:
    """A token and an API key."""
    form = {"username": f"user-{uuid.uuid4().hex[:12]}", "password": PASSWORD}
    await http.post("/users", json=form)
    token = {"Authorization": f"Bearer {(await http.post('/token', data=form)).json()['access_token']}"}
    key = (await http.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=token)).json()["key"]
    return token, {"X-API-Key": key}


async def status(http: httpx.AsyncClient, headers: dict[str, str]) -> int:
    return (await http.post("/verify", headers=headers)).status_code


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_without_redis_no_token_is_taken(
    http: httpx.AsyncClient, credentials: tuple[dict[str, str], dict[str, str]], redis_link: Any, how: str,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    token, key = credentials
    if how == "cut":
        await redis_link.cut()
    else:
        redis_link.freeze()
    assert await status(http, token) == 503
    assert await status(http, key) == 200  # its revocations are not in Redis
    assert await token_for_nobody(http) == 503
    assert (await http.get("/health")).json()["checks"] == {"postgres": "ok", "redis": "does not answer"}
    await redis_link.restore()

    async def back() -> bool:
        return await status(http, token) == 200

    await eventually(back)


async def test_a_connection_that_redis_lost_without_a_word_fails_no_request(
    http: httpx.AsyncClient, credentials: tuple[dict[str, str], dict[str, str]], redis_link: Any
) -> None:
    for ask in (lambda: status(http, credentials[0]), lambda: token_for_nobody(http)):
        before = await ask()
        redis_link.lose()
        assert await ask() == before


async def token_for_nobody(http: httpx.AsyncClient) -> int:
    return (await http.post("/token", data={"username": "nobody", "password": "x"})).status_code


async def test_a_redis_that_is_full_is_seen(http: httpx.AsyncClient, redis: Redis) -> None:
    limit = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", 1)
    try:
        health = await http.get("/health")
    finally:
        await redis.config_set("maxmemory", limit)
    assert (health.status_code, health.json()["checks"]["redis"]) == (503, "does not answer")
    assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_without_postgres(
    http: httpx.AsyncClient, credentials: tuple[dict[str, str], dict[str, str]], postgres_link: Any, how: str,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    token, key = credentials
    if how == "cut":
        await postgres_link.cut()
    else:
        postgres_link.freeze()
    assert await status(http, key) in (503, 504)
    assert await status(http, token) == 200  # the key that checks it is known, and Redis answers
    assert (await http.get("/jwks")).json()["keys"]
    body = {"username": "somebody", "password": PASSWORD}
    assert (await http.post("/users", json=body)).status_code in (503, 504)
    assert (await http.get("/health")).json()["checks"] == {"postgres": "does not answer", "redis": "ok"}
    await postgres_link.restore()

    async def back() -> bool:
        return await status(http, key) == 200

    await eventually(back)


async def test_a_token_is_not_called_a_bad_one_while_nobody_knows_the_keys(
    linked: dict[str, Any], credentials: tuple[dict[str, str], dict[str, str]], postgres_link: Any,
    started: Callable[..., Awaitable[httpx.AsyncClient]],
) -> None:  # fmt: skip
    """Started again while PostgreSQL is away: each time that it is shown, not only the first."""
    token, _ = credentials
    await postgres_link.cut()
    http = await started(create_app(AuthSettings(**{"auth_secret": secrets.token_hex(32), **linked})), ready=False)
    assert [await status(http, token) for _ in range(3)] == [503] * 3


async def test_a_start_without_stores_is_made_good_when_they_come(
    linked: dict[str, Any], postgres_link: Any, redis_link: Any, eventually: Callable[..., Awaitable[None]],
    started: Callable[..., Awaitable[httpx.AsyncClient]],
) -> None:  # fmt: skip
    await postgres_link.cut()
    await redis_link.cut()
    http = await started(create_app(AuthSettings(**{"auth_secret": secrets.token_hex(32), **linked})), ready=False)
    assert (await http.get("/health")).status_code == 503
    answer = await http.post("/verify", headers={"X-API-Key": "vls_x"})
    assert (answer.status_code, answer.json()["detail"]) == (503, "PostgreSQL is not ready; try again soon.")
    await postgres_link.restore()
    await redis_link.restore()

    async def back() -> bool:
        return (await http.get("/health")).status_code == 200

    await eventually(back)
    assert (await http.post("/verify", headers={"X-API-Key": "vls_x"})).status_code == 401
