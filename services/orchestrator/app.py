"""What does ``orchestrator`` answer to?"""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, StringConstraints

from common import calls, redis_store, service
from common.identity import Identity, identify
from common.problems import Problem
from common.texts import Name, Text
from orchestrator.memory import Memory
from orchestrator.model import Model
from orchestrator.runs import Done, Event, Failed, Piece, Run, Runs
from orchestrator.settings import OrchestratorSettings
from orchestrator.tasks import Task, Tasks, new_task

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$")]


class NewTask(BaseModel):
    """What is to be done. With ``session``, what was said in it is known, and this is added to it."""

    prompt: Text
    session: Name | None = None
    model: ModelName | None = None
    stream: bool = False


class TaskList(BaseModel):
    """Tasks, newest first."""

    tasks: list[Task]


def create_app(settings: OrchestratorSettings) -> FastAPI:
    """The application, as ``settings`` say. Connects to nothing before it starts."""
    redis = redis_store.connect(settings)
    auth = calls.client(settings.auth_url)
    memory = calls.client(settings.memory_url, seconds=8)
    model = Model(settings.model_url, settings.model_api_key.get_secret_value(), settings.model_timeout_seconds)
    tasks = Tasks(redis, settings.task_ttl_seconds)
    runs = Runs(
        tasks, Memory(memory), model,
        at_once=settings.model_concurrency, limit_seconds=settings.model_timeout_seconds,
    )  # fmt: skip
    # The model's time, and that of all the rest.
    seconds = settings.model_timeout_seconds + settings.request_seconds
    app = service.create(
        "orchestrator",
        settings,
        resources=[redis, auth, memory, model.http, runs.running()],
        checks={"redis": redis.ping},
        seconds=seconds,
    )

    async def caller(request: Request) -> Identity:
        return await identify(auth, request)

    Caller = Annotated[Identity, Depends(caller)]  # noqa: N806 - a type

    @app.post("/tasks", status_code=HTTPStatus.CREATED, response_model=Task, tags=["tasks"])
    async def create(new: NewTask, user: Caller) -> Response:
        task = new_task(new.prompt, new.model or settings.model_name, new.session, timedelta(seconds=seconds))
        place = {"Location": f"/tasks/{task.id}"}
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(runs.start(user, task))
            # Nothing has been sent yet: what fails before the answer begins has a status of its own.
            first = _no_failure(await run.next(), task)
            if new.stream:
                told = _told(task, first, run, stack.pop_all())
                return EventSourceResponse(told, headers={**place, "Cache-Control": "no-cache"})
            event = first
            while not isinstance(event, Done):
                event = _no_failure(await run.next(), task)
        return JSONResponse(task.model_dump(mode="json"), HTTPStatus.CREATED, place)

    @app.get("/tasks", tags=["tasks"])
    async def newest(user: Caller, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> TaskList:
        return TaskList(tasks=list(await tasks.newest(user.user_id, limit)))

    @app.get("/tasks/{task_id}", tags=["tasks"])
    async def get(task_id: uuid.UUID, user: Caller) -> Task:
        task = await tasks.get(user.user_id, task_id)
        if task is None:
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such task.")
        return task

    return app


def _no_failure(event: Event, task: Task) -> Piece | Done:
    if isinstance(event, Failed):
        raise Problem(event.status, event.sentence, task_id=str(task.id))
    return event


async def _told(task: Task, event: Event, run: Run, leaving: AsyncExitStack) -> AsyncIterator[bytes]:
    """The run as server-sent events: ``task``, ``token`` …, and ``done`` or ``error``. Stops it when nobody reads."""
    async with leaving:
        yield _sent("task", {"id": str(task.id)})
        while isinstance(event, Piece):
            yield _sent("token", {"text": event.text})
            event = await run.next()
        if isinstance(event, Failed):
            yield _sent("error", {"status": event.status, "detail": event.sentence, "task_id": str(task.id)})
        else:
            yield _sent("done", task.model_dump(mode="json"))


def _sent(event: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=event, data_str=json.dumps(data, ensure_ascii=False))
