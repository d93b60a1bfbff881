"""Chores are done by one process of a service, and a failure is told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from auth.tables import Table
from common import janitor
from common.postgres import Database
from common.problems import Unavailable
from common.settings import PostgresSettings


async def test_one_process_does_the_chores_of_all(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "SECONDS", 1)
    done: list[int] = []
    everywhere: set[int] = set()
    async with AsyncExitStack() as stack:
        for number in range(6):
            store = Database(PostgresSettings(**database), "thing", Table.metadata)
            await stack.enter_async_context(store.running())
            await store.prepare_until_done()

            async def chore(number: int = number) -> None:
                done.append(number)

            async def local(number: int = number) -> None:
                everywhere.add(number)

            await stack.enter_async_context(janitor.running(store, {"local": local}, chore=chore))
        await asyncio.sleep(4)
    assert 2 <= len(done) <= 5
    assert everywhere == set(range(6))


async def test_a_chore_that_fails_is_told_and_stops_no_other(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(janitor, "SECONDS", 0.1)
    came = asyncio.Event()

    async def away() -> None:
        raise Unavailable("PostgreSQL")

    async def wrong() -> None:
        raise ValueError

    async def done() -> None:
        came.set()

    store = Database(PostgresSettings(**database), "thing", Table.metadata)
    async with store.running():
        await store.prepare_until_done()
        async with janitor.running(store, {}, away=away, wrong=wrong, done=done):
            await came.wait()
    assert "away: PostgreSQL does not answer" in caplog.text
    assert "ValueError" in caplog.text
    for name, outcome in (("away", "failed"), ("wrong", "failed"), ("done", "done")):
        assert REGISTRY.get_sample_value("swarm_chores_total", {"chore": name, "outcome": outcome})
