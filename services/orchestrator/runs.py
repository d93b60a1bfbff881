"""How is a task done? Beside the request, so that every end is kept, and so that a restart is not one.

queued ──a place is free──> running: memory: what is known ──> the model answers ──> memory: keep it ──> done
   │ └──────────── anything that fails, the time limit ───────────────────────────────────────────────> failed
   └────────────── the owner cancels, the reader leaves ──────────────────────────────────────────────> cancelled
   <────────────── this process dies, or stops and waited in vain: another one, or this one when it is back, begins anew
"""

from __future__ import annotations

import asyncio
import logging
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import FrameType
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import Response

from common import metrics
from common.postgres import Database
from common.problems import Problem, Unavailable
from orchestrator.conversation import Message, known
from orchestrator.memory import Memory
from orchestrator.model import Models
from orchestrator.places import LEASE_SECONDS, Owner, Places
from orchestrator.settings import OrchestratorSettings
from orchestrator.spending import Count, Spending, estimated
from orchestrator.tasks import UNFINISHED, Task, Tasks

log = logging.getLogger("runs")

SAVE_SECONDS = 3
TICK_SECONDS = 1
WAITING_TICK_SECONDS = 0.2
"""Between looks when somebody waits for a place."""


type Result = Task | Response | None
type Event = str | Result | Problem
"""A piece of the answer, or the end of all: what the work gave, or why it did not."""
type Work = Callable[[Run], Awaitable[Result]]


class Cancelled(Problem):
    """The owner does not want it any more, or nobody waits for it."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.CONFLICT, "The task was cancelled.")


class Stopped(Problem):
    """It was begun by a process that stops."""

    def __init__(self, will_be: str = "") -> None:
        super().__init__(
            HTTPStatus.SERVICE_UNAVAILABLE, f"The orchestrator is stopping{will_be}.", headers={"Retry-After": "1"}
        )


class Run:
    """A task being done here; or ``work`` that is no task of ours, and only has its place. Its events: pieces, then one
    end."""

    def __init__(self, task: Task, owner: Owner, work: Work | None) -> None:
        self.task = task
        self.owner = owner
        self.kept = work is None
        self.place = asyncio.Event()
        self.work: asyncio.Task[None] | None = None
        self.end: Problem | None = None
        self._silent = True
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Let ``event`` have happened."""
        if self._silent and isinstance(event, str):
            metrics.FIRST.labels(self.task.model).observe((datetime.now(UTC) - self.task.created_at).total_seconds())
            self._silent = False
        self._events.put_nowait(event)

    async def next(self, request: Request | None = None) -> str | Result:
        """What happens next; nothing does after what is no piece. Raises the ``Problem`` that it ends
        with. When the client of ``request`` has gone it is cancelled: nobody would have the answer."""
        # Behind the body, which is read, comes one thing more.
        leaving = asyncio.ensure_future(request.receive()) if request else None
        if leaving:
            leaving.add_done_callback(lambda left: left.cancelled() or self.stop(Cancelled()))
        try:
            event = await self._events.get()
        finally:
            if leaving:
                leaving.cancel()
        if isinstance(event, Problem):
            event.more["task_id"] = str(self.task.id)
            raise event
        return event

    def stop(self, end: Problem) -> None:
        """End it now, in this way."""
        self.end = self.end or end
        if self.work is not None:
            self.work.cancel()


@dataclass(frozen=True)
class Aides:
    """Whom tasks are done with: what is known, who answers, and what that may cost a user."""

    memory: Memory
    models: Models
    spending: Spending


class Runs:
    """Does tasks, as there are places, each within the limits of ``settings``."""

    def __init__(self, tasks: Tasks, places: Places, aides: Aides, settings: OrchestratorSettings) -> None:
        self._tasks = tasks
        self._places = places
        self._memory = aides.memory
        self._models = aides.models
        self.spending = aides.spending
        self._settings = settings
        self._runs: dict[uuid.UUID, Run] = {}
        self._coming: list[uuid.UUID] = []  # whose tasks are being kept
        self._turns: WeakValueDictionary[uuid.UUID, asyncio.Lock] = WeakValueDictionary()
        self._wake = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self, database: Database) -> AsyncIterator[None]:
        """Look after the queue. From the signal that says stop nothing is begun; what waits is left to others."""
        looking, loop = asyncio.create_task(self._look(database)), asyncio.get_running_loop()
        usual = signal.getsignal(signal.SIGTERM)

        def stop(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._drain)
            if callable(usual):
                usual(number, frame)

        signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, usual)
            await (self._draining or self._drained(0))
            looking.cancel()
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self.spending.flush()

    def _drain(self) -> None:
        self._draining = self._draining or asyncio.create_task(self._drained(self._settings.model_timeout_seconds))

    async def _drained(self, seconds: float) -> None:
        begun = [run for run in self._runs.values() if run.place.is_set()]
        await self._leave(begun)
        if begun:
            await asyncio.wait([run.work for run in begun if run.work], timeout=seconds)
        await self._leave([])

    async def _leave(self, going_on: list[Run]) -> None:
        """Do nothing but what is ``going_on``; the rest is for others."""
        left = [run for run in self._runs.values() if run not in going_on]
        for run in left:
            run.stop(Stopped("; the task will be done: ask for it later" if run.kept else ""))
        await asyncio.gather(*(run.work for run in left if run.work), return_exceptions=True)
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(SAVE_SECONDS):
                await self._places.release([run.task.id for run in going_on])

    async def queue(self, task: Task, owner: Owner, work: Work | None = None) -> Run:
        """Queue ``task``, to be done whoever waits for it; or ``work`` that takes a place as it would, and is shown as
        it until it ends. Raises a ``Problem`` when the user's day or tasks are used up, or it cannot be kept."""
        self.check(owner.user_id)
        self._coming.append(owner.user_id)
        try:
            # One by one: who waits for the user's lock in PostgreSQL keeps a connection that others need.
            async with self._turns.setdefault(owner.user_id, asyncio.Lock()):
                await self.spending.check(owner.user_id)
                lease = datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)
                more = {"worker": self._places.worker, "lease_until": lease, "username": owner.username}
                token = None if work else owner.token
                async with self._tasks.adding(task, owner.user_id, token=token, **more) as connection:
                    placed = await self._places.give(connection)
        finally:
            self._coming.remove(owner.user_id)
        run = self._begin(task, owner, work)
        for task_id in placed:
            self._placed(task_id)
        if not run.place.is_set():
            self._wake.set()
        return run

    def check(self, user_id: uuid.UUID) -> None:
        """Raise 429 when the user has too many tasks here already: that asks nobody else. 503 when we stop."""
        if self._draining:
            raise Stopped
        here = (*self._coming, *(run.owner.user_id for run in self._runs.values()))
        self._tasks.check(here.count(user_id))

    def cancelled(self, task_id: uuid.UUID) -> None:
        """Stop the task, should it be done here; where it is done elsewhere, that process sees it soon."""
        if task_id in self._runs:
            self._runs[task_id].stop(Cancelled())

    def _begin(self, task: Task, owner: Owner, work: Work | None = None) -> Run:
        run = self._runs[task.id] = Run(task, owner, work)
        run.work = asyncio.create_task(self._do(run, work))
        run.work.add_done_callback(lambda _: self._ended(run))
        return run

    def _placed(self, task_id: uuid.UUID) -> None:
        if (run := self._runs.get(task_id)) and not run.place.is_set():
            metrics.WAITED.observe((datetime.now(UTC) - run.task.created_at).total_seconds())
            run.place.set()

    def _ended(self, run: Run) -> None:
        self._runs.pop(run.task.id, None)
        if run.kept or self._waiting():
            self._wake.set()  # its place is free, or is to be: a look lets go of what was cancelled

    def _waiting(self) -> bool:
        return any(not run.place.is_set() for run in self._runs.values())

    async def _look(self, database: Database) -> None:
        looked_for_orphans = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            try:
                if database.prepared and not self._draining and clock() - looked_for_orphans >= TICK_SECONDS:
                    looked_for_orphans = clock()
                    for task, owner in await self._places.adopt():
                        log.info("taken over", extra={"task": str(task.id)})
                        self._begin(task, owner)
                self._count()
                await self._give_places()
                await self.spending.flush()
            except Unavailable:
                pass  # those that run go on; the rest waits
            except Exception:
                log.exception("a mistake of this service")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), WAITING_TICK_SECONDS if self._waiting() else TICK_SECONDS)

    def _count(self) -> None:
        placed = Counter((run.task.model, run.place.is_set()) for run in self._runs.values())
        for model in self._models:
            metrics.TASKS.labels("running", model).set(placed[model, True])
            metrics.TASKS.labels("queued", model).set(placed[model, False])

    async def _give_places(self) -> None:
        known = list(self._runs.values())
        ours = await self._places.look(self._runs)
        for run in known:
            state = ours.get(run.task.id)
            if state == "running":
                self._placed(run.task.id)
            elif state != "queued" and run.task.state in UNFINISHED:
                run.stop(Cancelled())  # by its owner, at another process

    async def _do(self, run: Run, work: Work | None) -> None:
        """Do the work, and keep and tell its end, whichever it is."""
        end: Event
        try:
            if work:
                async with self._in_time(run):
                    end = await work(run)
            else:
                end = await self._answered(run)
        except asyncio.CancelledError:
            end = run.end or Stopped()
        except Problem as problem:
            end = problem
        except Exception:
            log.exception("a mistake of this service", extra={"task": str(run.task.id)})
            end = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "This service made a mistake; its log says more.")
        if not run.kept:
            run.task.state = "done"
            with suppress(Problem, asyncio.CancelledError):
                await asyncio.shield(self._tasks.remove(run.task.id))
        elif isinstance(end, Cancelled):
            await self._keep_end(run.task, "cancelled", "Its owner cancelled it, or nobody waited for the answer.")
        elif isinstance(end, Problem) and not isinstance(end, Stopped):
            log.warning("a task failed: %s", end.detail, extra={"task": str(run.task.id)})
            await self._keep_end(run.task, "failed", end.detail)
        run.tell(end)

    @asynccontextmanager
    async def _in_time(self, run: Run) -> AsyncIterator[None]:
        """With a place, and within the model's time, which begins before."""
        seconds = self._settings.model_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await run.place.wait()
                yield
        except TimeoutError as error:
            late = f"The model had not finished its answer after {seconds:g} seconds."
            why = late if run.place.is_set() else "The model is busy: no place was free in time."
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, why) from error

    async def _answered(self, run: Run) -> Task:
        task, owner = run.task, run.owner
        pieces: list[str] = []
        count = None
        try:
            async with self._in_time(run):
                task.state = "running"
                task.context = await self._memory.search(owner, task.prompt)
                said: list[Message] = await self._memory.said(owner, task.session) if task.session else []
                before = known(task.context, said, len(task.prompt), self._settings.context_tokens)
                messages: list[Message] = [*before, {"role": "user", "content": task.prompt}]
                count = Count(estimated(*(one["content"] for one in messages)))
                answering = self._models[task.model].answer(task.model, messages, self._settings.max_tokens, count)
                async with aclosing(answering) as answered:
                    with metrics.model_asked(task.model):
                        async for piece in answered:
                            pieces.append(piece)
                            run.tell(piece)
        finally:
            if count:
                self.spending.add(owner.user_id, task.model, count)
        answer = "".join(pieces).replace("\x00", "").strip()
        if not answer:
            raise Problem(HTTPStatus.BAD_GATEWAY, "The model answered with nothing.")
        task.answer = answer
        about = {"task_id": str(task.id)}
        task.stored = await self._memory.remember(owner, task.prompt, answer, session=task.session, about=about)
        task.state = "done"
        if not await self._tasks.save(task, self._places.worker):
            raise Cancelled
        return task

    async def _keep_end(self, task: Task, state: str, sentence: str) -> None:
        task.state, task.error = state, sentence  # type: ignore[assignment]
        # Should PostgreSQL be away, the deadline that was kept with the task tells the same a little later.
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(SAVE_SECONDS):
                await self._tasks.save(task, self._places.worker)
