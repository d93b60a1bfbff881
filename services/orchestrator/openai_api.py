"""OpenAI's interface: what any client of it can talk to, with our API keys, quotas and places.

Requests go to the model as they came, and its answers back: tools, content parts, usage and all. The model must be one
of MODELS, and no answer may be longer than MAX_TOKENS. Nothing is remembered but what is asked for
(``orchestrator.recall``).
"""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from common import metrics
from common.identity import Identity
from common.problems import Problem
from orchestrator.model import BROKEN_OFF, Models
from orchestrator.recall import Headers, Metadata, Recall, Recalls
from orchestrator.runs import Runs
from orchestrator.settings import OrchestratorSettings
from orchestrator.spending import StreamCount, content_of, estimated, told
from orchestrator.tasks import new_task

log = logging.getLogger("openai")


class Asked(BaseModel):
    """What is asked of a model, as far as it is looked at here; the rest goes on as it is."""

    model_config = ConfigDict(extra="allow")

    model: str

    @model_validator(mode="before")
    @classmethod
    def _can_be_sent(cls, body: Any) -> Any:
        try:
            json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:  # half of a character, a number without end
            raise ValueError("holds what cannot be sent on as JSON") from None
        return body


class Chat(Asked):
    """What is said by now."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    stream: bool = False
    metadata: Metadata | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)


class Embeddings(Asked):
    """Texts that are to become vectors."""

    input: str | list[str] | list[int] | list[list[int]]


def install(
    app: FastAPI, runs: Runs, models: Models, recalls: Recalls, caller: Any, settings: OrchestratorSettings
) -> None:
    """Make ``app`` answer below ``/v1`` to those whom the dependency ``caller`` lets pass."""
    Caller = Annotated[Identity, caller]  # noqa: N806 - a type

    async def passed_on(path: str, body: dict[str, Any], recall: Recall) -> Response:
        name = body["model"]
        if name not in models:
            raise Problem(HTTPStatus.NOT_FOUND, f"There is no model called {name[:200]} here.")
        owner, asked = recall.owner, body.get("messages")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                runs.place(new_task(f"{path} of OpenAI's interface", name, None, settings.task_limit), owner)
            )
            if asked and recall.keeps:
                body["messages"] = await recall.before(asked)
            model = models[name]
            stack.enter_context(metrics.model_asked(name))
            answer = await stack.enter_async_context(model.passed_on(path, body))
            read = estimated(json.dumps(body.get("messages") or body.get("input"), ensure_ascii=False))
            count = StreamCount(read, hears=recall.keeps)
            if not body.get("stream") or not answer.is_success:
                said = await model.as_json(answer)
                used = told(said.get("usage")) if isinstance(said, dict) else None
                runs.spent(owner, name, used if used is not None else count.tokens + estimated(json.dumps(said)))
                stored = recall.keeps and await recall.keep(asked or [], content_of(said, "message"))
                headers = {"X-Swarm-Stored": "yes" if stored else "no"} if recall.keeps else {}
                return JSONResponse(said, answer.status_code, headers)

            stack.callback(lambda: runs.spent(owner, name, count.tokens))
            keep = partial(recall.keep, asked or [])
            return StreamingResponse(_told(answer, count, keep, stack.pop_all()), media_type="text/event-stream")

    @app.post("/v1/chat/completions", tags=["OpenAI's interface"])
    async def chat(asked: Chat, user: Caller, headers: Annotated[Headers, Header()]) -> Response:
        body = asked.model_dump(exclude_unset=True)
        metadata = asked.metadata or Metadata()
        if body.pop("metadata", None) and metadata.model_extra:  # an empty one OpenAI's own server would refuse
            body["metadata"] = metadata.model_extra
        given = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        body[given] = min(body.get(given) or settings.max_tokens, settings.max_tokens)
        return await passed_on("chat/completions", body, await recalls.of(user, headers, metadata))

    @app.post("/v1/embeddings", tags=["OpenAI's interface"])
    async def embeddings(asked: Embeddings, user: Caller) -> Response:
        nothing = await recalls.of(user, Headers(), Metadata())
        return await passed_on("embeddings", asked.model_dump(exclude_unset=True), nothing)

    @app.get("/v1/models", tags=["OpenAI's interface"])
    async def list_models(_: Caller) -> dict[str, Any]:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm-swarm"} for name in models]
        return {"object": "list", "data": data}


async def _told(
    answer: httpx.Response, count: StreamCount, keep: Callable[[str], Awaitable[bool]], leaving: AsyncExitStack
) -> AsyncIterator[bytes]:
    """The answer as it comes. Who has read its end may leave, so it is kept before that is sent."""
    try:
        async with leaving:
            async for data in answer.aiter_bytes():
                if count.pass_by(data):
                    await keep(count.heard)
                yield data
    except httpx.HTTPError as error:
        log.warning("the model broke off", extra={"cause": type(error).__name__})
        yield f'data: {{"error": {{"message": "{BROKEN_OFF}"}}}}\n\n'.encode()
