"""What does ``orchestrator`` answer to?"""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, StringConstraints
from sqlalchemy.exc import IntegrityError

from common import audit, calls, janitor, redis_store, service
from common.identity import Identities, Identity
from common.pages import After, Limit, following
from common.postgres import Database
from common.problems import Problem
from common.texts import Name, Text
from orchestrator import openai_api
from orchestrator.memory import Memory
from orchestrator.model import Models
from orchestrator.openai_api import Caller
from orchestrator.places import Owner, Places
from orchestrator.recall import recall
from orchestrator.runs import Aides, Cancelled, Result, Run, Runs
from orchestrator.settings import OrchestratorSettings
from orchestrator.spending import Spending, Usage
from orchestrator.tables import Table
from orchestrator.tasks import Task, Tasks, new_task

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$")]
Key = Annotated[str | None, Header(min_length=1, max_length=255)]


class NewTask(BaseModel):
    """What is to be done. With ``session``, what was said in it is known, and this is added to it. With ``background``
    the answer is not waited for, and the task is done whoever leaves."""

    prompt: Text
    session: Name | None = None
    model: ModelName | None = None
    stream: bool = False
    background: bool = False


class TaskList(BaseModel):
    """Tasks, newest first. With ``next`` as ``after`` the next ones are given; none: there are no more."""

    tasks: list[Task]
    next: str | None


def create_app(settings: OrchestratorSettings) -> FastAPI:
    """The application, as ``settings`` say. Connects to nothing before it starts."""
    database = Database(settings, "orchestrator", Table.metadata)
    redis = redis_store.connect(settings)
    auth = calls.client(settings.auth_url)
    memory = calls.client(settings.memory_url, seconds=8)
    models = Models(settings.endpoints, settings.model_timeout_seconds)
    spending = Spending(database, settings.tokens_per_user_day)
    tasks = Tasks(database, settings.task_ttl_seconds, settings.tasks_per_user)
    places = Places(database, settings.model_concurrency)
    runs = Runs(tasks, places, Aides(Memory(memory), models, spending), settings)
    identities = Identities("orchestrator", auth, redis)
    app = service.create(
        "orchestrator",
        settings,
        resources=[
            redis, database.running(), auth, memory, *models.clients, runs.running(database),
            janitor.running(database, {}, tasks=tasks.forget_old, spent=spending.forget_old),
        ],
        checks={"postgres": database.check, "redis": redis.ping},
        identify=identities.identify,
    )  # fmt: skip
    _add_tasks(app, tasks, runs, identities, settings)
    recalled = partial(recall, Memory(memory), identities, settings.context_tokens)
    openai_api.install(app, runs, models, recalled, settings)

    @app.get("/usage", tags=["usage"])
    async def usage(user: Caller) -> Usage:
        return await spending.usage(user.user_id)

    return app


def _add_tasks(app: FastAPI, tasks: Tasks, runs: Runs, identities: Identities, settings: OrchestratorSettings) -> None:
    async def owner(user: Identity) -> Owner:
        token = await identities.exchange(user.headers, "memory") if "memory:read" in user.claims.scopes else ""
        return Owner(user.user_id, user.claims.username, token)

    @app.post("/tasks", status_code=HTTPStatus.CREATED, response_model=Task, tags=["tasks"])
    async def create(new: NewTask, user: Caller, request: Request, idempotency_key: Key = None) -> Response:
        """With a key a task is made once, and done whoever leaves: who sends it again is told what became of it."""
        if new.model and new.model not in settings.endpoints:
            raise Problem(HTTPStatus.NOT_FOUND, "There is no such model here.")
        task = new_task(new.prompt, new.model or settings.model_name, new.session, settings.longest_seconds)
        task.id = uuid.uuid5(user.user_id, idempotency_key) if idempotency_key else task.id
        place = {"Location": f"/tasks/{task.id}"}

        def again(kept: Task) -> Response:
            if (kept.prompt, kept.model, kept.session) != (task.prompt, task.model, task.session):
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "This Idempotency-Key is that of another task.")
            return JSONResponse(kept.model_dump(mode="json"), headers={**place, "Idempotent-Replayed": "true"})

        if idempotency_key and (kept := await tasks.get(user.user_id, task.id)):
            return again(kept)
        runs.check(user.user_id)
        try:
            run = await runs.queue(task, await owner(user))
        except IntegrityError:  # of several at once another one was first
            return again(await get(task.id, user))
        if new.background:
            return JSONResponse(task.model_dump(mode="json"), HTTPStatus.ACCEPTED, place)
        async with AsyncExitStack() as stack:
            waiting = None if idempotency_key else request
            if waiting:
                stack.callback(run.stop, Cancelled())
            # Nothing has been sent yet: what fails before the answer begins has a status of its own.
            event = await run.next(waiting)
            if new.stream:
                told = _told(event, run, stack.pop_all())
                return EventSourceResponse(told, headers={**place, "Cache-Control": "no-cache"})
            while isinstance(event, str):
                event = await run.next(waiting)
        return JSONResponse(task.model_dump(mode="json"), HTTPStatus.CREATED, place)

    @app.get("/tasks", tags=["tasks"])
    async def page(user: Caller, after: After, limit: Limit = 20) -> TaskList:
        found = await tasks.page(user.user_id, after, limit)
        return TaskList(tasks=list(found), next=following(found, limit))

    @app.get("/tasks/{task_id}", tags=["tasks"])
    async def get(task_id: uuid.UUID, user: Caller) -> Task:
        task = await tasks.get(user.user_id, task_id)
        if task is None:
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such task.")
        return task

    @app.delete("/tasks/{task_id}", status_code=HTTPStatus.NO_CONTENT, tags=["tasks"])
    async def cancel(task_id: uuid.UUID, user: Caller) -> None:
        """Stops a task that is not done, and forgets one that is."""
        if not await tasks.cancel(user.user_id, task_id):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such task.")
        runs.cancelled(task_id)
        audit.record("task deleted", user, target=task_id)


async def _told(event: str | Result, run: Run, leaving: AsyncExitStack) -> AsyncIterator[bytes]:
    """The run as server-sent events: ``task``, ``token`` …, and ``done`` or ``error``. Stops it when nobody reads."""
    async with leaving:
        try:
            yield _sent("task", {"id": str(run.task.id)})
            while isinstance(event, str):
                yield _sent("token", {"text": event})
                event = await run.next()
            yield _sent("done", run.task.model_dump(mode="json"))
        except Problem as problem:
            yield _sent("error", {"status": problem.status_code, "detail": problem.detail, **problem.more})


def _sent(event: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=event, data_str=json.dumps(data, ensure_ascii=False))
