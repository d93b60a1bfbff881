"""What the tests of the services stand on: a real PostgreSQL with pgvector, a real Redis, apps that run.

`tests/services/with_stores.sh pytest tests/services` starts both stores. Nothing is imported here that the images
do not have, and nothing of one service alone.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

STORES = (
    "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB",
    "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD",
)  # fmt: skip

# Where a connection is given up at the moment that it was made, asyncpg leaves a future with an error that nobody looks
# at ("unexpected connection_lost()") if it would have asked for TLS first; tests fail for it. These stores have none.
os.environ["PGSSLMODE"] = "disable"

# How long an example takes says something about the machine only; nothing is kept between runs.
settings.register_profile("services", database=None, deadline=None)
settings.load_profile("services")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the stores: `-m "not stores"` is what can be run anywhere, inside a build for one."""
    for item in items:
        if "stores" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stores)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def stores() -> dict[str, Any]:
    """Where the stores are, as keyword arguments of the services' settings."""
    missing = [name for name in STORES if not os.environ.get(name)]
    if missing:
        pytest.fail(
            f"These tests need real stores, and {', '.join(missing)} are not set: "
            "run them with tests/services/with_stores.sh",
            pytrace=False,
        )
    return {name.lower(): os.environ[name] for name in STORES}


@pytest.fixture(scope="session")
async def database(stores: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The stores, with an empty database for this run of tests."""
    import asyncpg
    from conftest_stores import migrated

    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(
        host=stores["postgres_host"], port=int(stores["postgres_port"]), user=stores["postgres_user"],
        password=stores["postgres_password"], database=stores["postgres_db"],
    )  # fmt: skip
    await admin.execute(f'CREATE DATABASE "{name}"')
    try:
        await migrated({**stores, "postgres_db": name})
        yield {**stores, "postgres_db": name}
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()


@pytest.fixture
async def redis(stores: dict[str, Any]) -> AsyncIterator[Any]:
    """A client of Redis that may do everything."""
    from redis.asyncio import Redis

    host, port, password = stores["redis_host"], int(stores["redis_port"]), stores["redis_password"]
    async with Redis(host=host, port=port, password=password) as client:
        yield client


@pytest.fixture(autouse=True)
def health_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.health.FRESH_SECONDS", 0)


@pytest.fixture(autouse=True)
def what_is_logged_stays() -> Iterator[None]:
    """An application sets the level of all loggers: not for the tests after it."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture
def audited() -> Iterator[list[dict[str, Any]]]:
    """The lines of the audit log since the test began, as they are written."""
    from common.logs import FORMAT

    lines: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(FORMAT.format(record)))  # type: ignore[method-assign]
    logging.getLogger("audit").addHandler(handler)
    yield lines
    logging.getLogger("audit").removeHandler(handler)


@pytest.fixture
async def started() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Starts an app as uvicorn would; gives a client of it. ``address`` is where the client seems to be."""
    from contextlib import AsyncExitStack

    import httpx
    from asgi_lifespan import LifespanManager

    async with AsyncExitStack() as stack:

        async def start(app: Any, *, address: str = "127.0.0.1", ready: bool = True) -> httpx.AsyncClient:
            await stack.enter_async_context(LifespanManager(app))
            client = await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://service", timeout=None
                )
            )
            if ready:
                await until(healthy, client)
            return client

        yield start


async def healthy(client: Any) -> bool:
    return bool((await client.get("/health")).status_code == 200)


async def until(condition: Callable[..., Awaitable[bool]], *arguments: Any) -> None:
    """Wait until ``condition`` holds; a test whose condition never does ends with ``faulthandler_timeout``."""
    import anyio

    while not await condition(*arguments):
        await anyio.sleep(0.05)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def strangers() -> Callable[[Any], Awaitable[list[str]]]:
    """Sends every operation of an app a body, and no credential. Returns those that do more than refuse it unread."""

    async def read_or_answered(app: Any) -> list[str]:
        async def refused_unread(method: str, path: str) -> bool:
            told: list[Any] = []

            async def receive() -> dict[str, Any]:
                told.append("the body is read")
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                told.append(message)

            scope = {
                "type": "http", "method": method, "path": path, "query_string": b"", "client": ("127.0.0.1", 1),
                "headers": [(b"content-length", b"500000"), (b"content-type", b"application/json")],
            }  # fmt: skip
            await app(scope, receive, send)
            return told[0] != "the body is read" and told[0]["status"] == 401

        operations = [(method, one.path) for one in app.routes for method in one.methods - {"HEAD"}]
        assert len(operations) > 5
        return [f"{method} {path}" for method, path in sorted(operations) if not await refused_unread(method, path)]

    return read_or_answered


@pytest.fixture
async def postgres_link(database: dict[str, Any]) -> AsyncIterator[Any]:
    """A line to PostgreSQL that can be cut."""
    from outage import Link

    async with Link(database["postgres_host"], int(database["postgres_port"])) as link:
        yield link


@pytest.fixture
async def redis_link(stores: dict[str, Any]) -> AsyncIterator[Any]:
    """A line to Redis that can be cut."""
    from outage import Link

    async with Link(stores["redis_host"], int(stores["redis_port"])) as link:
        yield link


@pytest.fixture
def linked(database: dict[str, Any], postgres_link: Any, redis_link: Any) -> dict[str, Any]:
    """The stores, at the far ends of both lines."""
    here = {"postgres_host": "127.0.0.1", "redis_host": "127.0.0.1"}
    return {**database, **here, "postgres_port": postgres_link.port, "redis_port": redis_link.port}
