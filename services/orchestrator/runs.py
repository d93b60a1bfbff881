"""How is a task done? Beside the request, so that every end is kept, and so that a restart is not one.

queued ──a place is free──> running: memory: what is known ──> the model answers ──> memory: keep it ──> done
   │ └──────────── anything that fails, the time limit ───────────────────────────────────────────────> failed
   └────────────── the owner cancels, the reader leaves ──────────────────────────────────────────────> cancelled
   <────────────── this process stops or dies: another one, or this one when it is back, begins anew
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from common import metrics
from common.postgres import Database
from common.problems import Problem, Unavailable
from orchestrator.conversation import Message, known
from orchestrator.memory import Memory
from orchestrator.model import ModelFailed, Models
from orchestrator.places import LEASE_SECONDS, Owner, Places
from orchestrator.spending import Spending, estimated
from orchestrator.tasks import UNFINISHED, Task, Tasks

log = logging.getLogger("runs")

SAVE_SECONDS = 3
TICK_SECONDS = 1
WAITING_TICK_SECONDS = 0.2
"""Between looks when somebody waits for a place."""


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

CANCELLED = Failed(HTTPStatus.CONFLICT, "The task was cancelled.")
STOPPED = Failed(
    HTTPStatus.SERVICE_UNAVAILABLE, "The orchestrator is stopping; the task will be done: ask for it later."
)


class Run:
    """A task being done here. Its events: pieces, then one end."""

    def __init__(self, task: Task, owner: Owner) -> None:
        self.task = task
        self.owner = owner
        self.place = asyncio.Event()
        self.work: asyncio.Task[None] | None = None
        self.end: Failed | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Let ``event`` have happened."""
        self._events.put_nowait(event)

    async def next(self) -> Event:
        """What happens next. Nothing does after ``Done`` or ``Failed``."""
        return await self._events.get()

    def stop(self, end: Failed) -> None:
        """End it now, in this way."""
        self.end = self.end or end
        if self.work is not None:
            self.work.cancel()


@dataclass(frozen=True)
class Limits:
    """What one task may cost: ``seconds`` in all, so many tokens for the model to read, and so many to write."""

    seconds: float
    context_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Aides:
    """Whom tasks are done with: what is known, who answers, and what that may cost a user."""

    memory: Memory
    models: Models
    spending: Spending


class Runs:
    """Does tasks, as there are places, each within its ``limits``."""

    def __init__(self, tasks: Tasks, places: Places, aides: Aides, limits: Limits) -> None:
        self._tasks = tasks
        self._places = places
        self._memory = aides.memory
        self._models = aides.models
        self._spending = aides.spending
        self._limit_seconds = limits.seconds
        self._limits = limits
        self._runs: dict[uuid.UUID, Run] = {}
        self._wake = asyncio.Event()

    @asynccontextmanager
    async def running(self, database: Database) -> AsyncIterator[None]:
        """Look after the queue. At the end leave what is being done to others, or to ourselves when we are back."""
        looking = asyncio.create_task(self._look(database))
        try:
            yield
        finally:
            looking.cancel()
            left = list(self._runs.values())
            for run in left:
                run.stop(STOPPED)
            await asyncio.gather(looking, *(run.work for run in left if run.work), return_exceptions=True)
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._places.release([run.task.id for run in left])
                    await self._spending.flush()

    @asynccontextmanager
    async def start(self, task: Task, owner: Owner) -> AsyncIterator[Run]:
        """Queue ``task``. Whoever leaves before its end cancels it. Raises ``Unavailable`` when it cannot be kept."""
        run = await self.queue(task, owner)
        try:
            yield run
        finally:
            run.stop(CANCELLED)

    async def queue(self, task: Task, owner: Owner) -> Run:
        """Queue ``task``, to be done whoever waits for it. Raises as ``start``."""
        await self._spending.check(owner.user_id)
        lease = datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)
        more = {"user_id": owner.user_id, "username": owner.username, "token": owner.token}
        await self._tasks.add(task, worker=self._places.worker, lease_until=lease, **more)
        return self._begin(task, owner)

    @asynccontextmanager
    async def place(self, task: Task, owner: Owner) -> AsyncIterator[None]:
        """A place at the model for what is no task of ours; ``task`` stands for it meanwhile. Raises a ``Problem`` when
        none is free in time, or the user's day is used up."""
        await self._spending.check(owner.user_id)
        lease = datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)
        more = {"user_id": owner.user_id, "username": owner.username, "token": None}
        await self._tasks.add(task, worker=self._places.worker, lease_until=lease, **more)
        run = self._runs[task.id] = Run(task, owner)
        self._wake.set()
        try:
            async with asyncio.timeout(self._limit_seconds):
                await run.place.wait()
            yield
        except TimeoutError as error:
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, "The model is busy: no place was free in time.") from error
        finally:
            self._ended(run)
            with suppress(Problem):
                await asyncio.shield(self._tasks.remove(task.id))

    def spent(self, owner: Owner, model: str, tokens: int) -> None:
        """Count what ``model`` has read and written for a user."""
        self._spending.add(owner.user_id, model, tokens)

    def cancelled(self, task_id: uuid.UUID) -> None:
        """Stop the task, should it be done here; where it is done elsewhere, that process sees it soon."""
        if task_id in self._runs:
            self._runs[task_id].stop(CANCELLED)

    def _begin(self, task: Task, owner: Owner) -> Run:
        run = self._runs[task.id] = Run(task, owner)
        run.work = asyncio.create_task(self._do(run))
        run.work.add_done_callback(lambda _: self._ended(run))
        self._wake.set()
        return run

    def _ended(self, run: Run) -> None:
        self._runs.pop(run.task.id, None)
        self._wake.set()  # its place is free

    async def _look(self, database: Database) -> None:
        looked_for_orphans = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            try:
                if database.prepared and clock() - looked_for_orphans >= TICK_SECONDS:
                    looked_for_orphans = clock()
                    for task, owner in await self._places.adopt():
                        log.info("taken over", extra={"task": str(task.id)})
                        self._begin(task, owner)
                self._count()
                if self._runs:
                    await self._give_places()
                await self._spending.flush()
            except Unavailable:
                pass  # those that run go on; the rest waits
            except Exception:
                log.exception("a mistake of this service")
            waiting = any(not run.place.is_set() for run in self._runs.values())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), WAITING_TICK_SECONDS if waiting else TICK_SECONDS)

    def _count(self) -> None:
        placed = sum(run.place.is_set() for run in self._runs.values())
        metrics.TASKS.labels("running").set(placed)
        metrics.TASKS.labels("queued").set(len(self._runs) - placed)

    async def _give_places(self) -> None:
        known = list(self._runs.values())
        ours = await self._places.look()
        for run in known:
            state = ours.get(run.task.id)
            if state == "running":
                if not run.place.is_set():
                    metrics.WAITED.observe((datetime.now(UTC) - run.task.created_at).total_seconds())
                run.place.set()
            elif state is None and run.task.state in UNFINISHED:
                run.stop(CANCELLED)  # by its owner, at another process

    async def _do(self, run: Run) -> None:
        """Do the task, and keep and tell its end, whichever it is."""
        task = run.task
        try:
            run.tell(Done(await self._answered(run)))
            return
        except asyncio.CancelledError:
            end = run.end or STOPPED
            if end is CANCELLED:
                await self._keep_end(task, "cancelled", "Its owner cancelled it, or nobody waited for the answer.")
            run.tell(end)
            return
        except ModelFailed as error:
            failed = Failed(error.status, str(error))
        except Problem as problem:
            failed = Failed(HTTPStatus(problem.status_code), problem.detail)
        except Exception:
            log.exception("a mistake of this service", extra={"task": str(task.id)})
            failed = Failed(HTTPStatus.INTERNAL_SERVER_ERROR, "This service made a mistake; its log says more.")
        log.warning("a task failed: %s", failed.sentence, extra={"task": str(task.id)})
        await self._keep_end(task, "failed", failed.sentence)
        run.tell(failed)

    async def _answered(self, run: Run) -> Task:
        task, owner = run.task, run.owner
        pieces: list[str] = []
        asked = 0
        try:
            async with asyncio.timeout(self._limit_seconds):
                await run.place.wait()
                task.state = "running"
                task.context = await self._memory.search(owner, task.prompt)
                said: list[Message] = await self._memory.said(owner, task.session) if task.session else []
                before = known(task.context, said, len(task.prompt), self._limits.context_tokens)
                messages: list[Message] = [*before, {"role": "user", "content": task.prompt}]
                asked = estimated(*(one["content"] for one in messages))
                answering = self._models[task.model].answer(task.model, messages, self._limits.answer_tokens)
                async with aclosing(answering) as answered:
                    with metrics.model_asked(task.model):
                        async for piece in answered:
                            pieces.append(piece)
                            run.tell(Piece(piece))
        except TimeoutError as error:
            raise ModelFailed(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"The model had not finished its answer after {self._limit_seconds:g} seconds.",
            ) from error
        finally:
            if asked:
                self.spent(owner, task.model, asked + estimated("".join(pieces)))
        answer = "".join(pieces).replace("\x00", "").strip()
        if not answer:
            raise ModelFailed(HTTPStatus.BAD_GATEWAY, "The model answered with nothing.")
        task.answer = answer
        about = {"task_id": str(task.id)}
        task.stored = await self._memory.remember(owner, task.prompt, answer, session=task.session, about=about)
        task.state = "done"
        if not await self._tasks.save(task, self._places.worker):
            raise Problem(CANCELLED.status, CANCELLED.sentence)
        return task

    async def _keep_end(self, task: Task, state: str, sentence: str) -> None:
        task.state, task.error = state, sentence  # type: ignore[assignment]
        # Should PostgreSQL be away, the deadline that was kept with the task tells the same a little later.
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(SAVE_SECONDS):
                await self._tasks.save(task, self._places.worker)
