"""How is a task done? Beside the request, so that the one who reads may leave and every end is kept.

queued ──a place is free──> memory: what is known ──> running: the model answers ──> memory: keep it ──> done
   └──────────────── anything that fails, the time limit, the reader leaves ────────────────> failed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

from redis.exceptions import RedisError

from common.identity import Identity
from common.problems import Problem
from orchestrator.conversation import Message, conversation, relevant
from orchestrator.memory import Memory
from orchestrator.model import Model, ModelFailed
from orchestrator.tasks import Task, Tasks

log = logging.getLogger("runs")

SAVE_SECONDS = 3


@dataclass(frozen=True)
class Piece:
    """A part of the answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of a task that was done."""

    task: Task


@dataclass(frozen=True)
class Failed:
    """The end of a task that was not: ``status`` and ``sentence`` for the user."""

    status: HTTPStatus
    sentence: str


type Event = Piece | Done | Failed


class Run:
    """A task being done. Its events: pieces, then one end."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Let ``event`` have happened."""
        self._events.put_nowait(event)

    async def next(self) -> Event:
        """What happens next. Nothing does after ``Done`` or ``Failed``."""
        return await self._events.get()


class Runs:
    """Does tasks, ``at_once`` side by side, each within ``limit_seconds``."""

    def __init__(self, tasks: Tasks, memory: Memory, model: Model, *, at_once: int, limit_seconds: float) -> None:
        self._tasks = tasks
        self._memory = memory
        self._model = model
        self._places = asyncio.Semaphore(at_once)
        self._limit_seconds = limit_seconds
        self._working: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At the end, stop what is still being done, and say so in its state."""
        try:
            yield
        finally:
            for work in self._working:
                work.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)

    @asynccontextmanager
    async def start(self, user: Identity, task: Task) -> AsyncIterator[Run]:
        """Queue ``task``. Whoever leaves before its end stops it. Raises ``RedisError`` when it cannot be kept."""
        await self._tasks.save(user.user_id, task)
        run = Run(task)
        work = asyncio.create_task(self._do(user, run))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        try:
            yield run
        finally:
            work.cancel()

    async def _do(self, user: Identity, run: Run) -> None:
        """Do the task, and keep and tell its end, whichever it is."""
        task = run.task
        try:
            run.tell(Done(await self._answered(user, run)))
            return
        except asyncio.CancelledError:
            await self._fail(user, task, "Nobody waited for the answer, or the orchestrator was stopped.")
            raise
        except ModelFailed as error:
            failed = Failed(error.status, str(error))
        except Problem as problem:
            failed = Failed(HTTPStatus(problem.status_code), problem.detail)
        except RedisError:
            failed = Failed(HTTPStatus.SERVICE_UNAVAILABLE, "Redis does not answer; try again soon.")
        except Exception:
            log.exception("a mistake of this service", extra={"task": str(task.id)})
            failed = Failed(HTTPStatus.INTERNAL_SERVER_ERROR, "This service made a mistake; its log says more.")
        log.warning("a task failed: %s", failed.sentence, extra={"task": str(task.id)})
        await self._fail(user, task, failed.sentence)
        run.tell(failed)

    async def _answered(self, user: Identity, run: Run) -> Task:
        task = run.task
        pieces: list[str] = []
        try:
            async with asyncio.timeout(self._limit_seconds), self._places:
                task.context = relevant(await self._memory.search(user, task.prompt))
                said: list[Message] = await self._memory.said(user, task.session) if task.session else []
                task.state = "running"
                await self._tasks.save(user.user_id, task)
                messages = conversation(task.context, said, task.prompt)
                async with aclosing(self._model.answer(task.model, messages)) as answered:
                    async for piece in answered:
                        pieces.append(piece)
                        run.tell(Piece(piece))
        except TimeoutError as error:
            raise ModelFailed(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"The model had not finished its answer after {self._limit_seconds:g} seconds.",
            ) from error
        answer = "".join(pieces).replace("\x00", "").strip()
        if not answer:
            raise ModelFailed(HTTPStatus.BAD_GATEWAY, "The model answered with nothing.")
        task.answer = answer
        task.stored = await self._memory.remember(user, task, answer)
        task.state = "done"
        await self._tasks.save(user.user_id, task)
        return task

    async def _fail(self, user: Identity, task: Task, sentence: str) -> None:
        task.state, task.error = "failed", sentence
        # Should Redis be away, the deadline that was kept with the task tells the same a little later.
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(SAVE_SECONDS):
                await self._tasks.save(user.user_id, task)
