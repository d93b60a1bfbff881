"""What is no longer to be kept? Now and then, what a service says is thrown away."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from common.problems import Unavailable

log = logging.getLogger("janitor")

SECONDS = 60


@asynccontextmanager
async def running(*chores: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do the ``chores`` once in ``SECONDS``, not all processes at the same moment."""

    async def work() -> None:
        while True:
            for chore in chores:
                try:
                    await chore()
                except Unavailable:
                    pass  # the next time
                except Exception:
                    log.exception("a mistake of this service")
            await asyncio.sleep(SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - not a secret

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
