from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import neighbours
import pytest
from neighbours import Neighbour


@pytest.fixture
def auth() -> Iterator[Neighbour]:
    with Neighbour(neighbours.auth).running() as neighbour:
        yield neighbour


@pytest.fixture
def app(auth: Neighbour) -> Callable[..., Any]:
    def make(stores: dict[str, Any], **changes: Any) -> Any:
        from memory.app import create_app
        from memory.settings import MemorySettings

        return create_app(MemorySettings(**{"auth_url": auth.url, **stores, **changes}))

    return make


@pytest.fixture
async def http(
    app: Callable[..., Any], database: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]
) -> httpx.AsyncClient:
    return await started(app(database))
