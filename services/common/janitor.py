"""What is no longer to be kept? Now and then, what a service says is thrown away, by one of its processes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from sqlalchemy import text

from common import metrics
from common.postgres import Database
from common.problems import Unavailable

log = logging.getLogger("janitor")

SECONDS = 60
_FIRST = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")

type Chore = Callable[[], Awaitable[None]]


@asynccontextmanager
async def running(database: Database, everywhere: Mapping[str, Chore], **chores: Chore) -> AsyncIterator[None]:
    """Do the ``chores`` once in ``SECONDS`` in one process of all with this ``database``, ``everywhere`` in each."""

    async def do(chores: Mapping[str, Chore]) -> None:
        for name, chore in chores.items():
            outcome = "failed"
            try:
                await chore()
                outcome = "done"
            except Unavailable as error:
                log.warning("%s: %s", name, error.detail)
            except Exception:
                log.exception("%s: a mistake of this service", name)
            metrics.CHORES.labels(name, outcome).inc()

    async def alone() -> None:
        async with database.begin() as connection:
            if (await connection.execute(_FIRST, {"name": f"janitor of {database.service}"})).scalar_one():
                await do(chores)
                await asyncio.sleep(SECONDS)  # meanwhile nobody else is the first

    async def work() -> None:
        while True:
            await asyncio.sleep(SECONDS * random.uniform(0.1, 1))  # noqa: S311 - not a secret
            await do({**everywhere, "janitor": alone})

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
