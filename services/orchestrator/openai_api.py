"""OpenAI's interface: what any client of it can talk to, with our API keys, quotas and places.

Requests go to the model as they came, and its answers back: tools, content parts, usage and all. The model must be one
of MODELS, and no answer may be longer than MAX_TOKENS. Nothing is remembered but what is asked for
(``orchestrator.recall``).
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from common import metrics
from common.callers import Gate, who_sent, with_scope
from common.identity import Identity
from common.problems import Problem
from orchestrator.model import ASKS_FOR_USAGE, Model, Models
from orchestrator.recall import Headers, Metadata, Recall
from orchestrator.runs import Cancelled, Result, Run, Runs
from orchestrator.settings import OrchestratorSettings
from orchestrator.spending import Count, content_of, estimated
from orchestrator.tasks import new_task

PASSED_ON = frozenset(
    """audio chat_template_kwargs dimensions echo encoding_format frequency_penalty function_call functions include
    instructions logit_bias logprobs min_p modalities parallel_tool_calls prediction presence_penalty prompt_cache_key
    reasoning reasoning_effort repetition_penalty response_format safety_identifier seed service_tier stop
    stop_token_ids store structured_outputs suffix temperature text tool_choice tools top_k top_logprobs top_p
    truncation user verbosity""".split()  # noqa: SIM905
)
"""What models are told as it came: nothing that makes an answer longer, or more than one."""
QUESTIONS = ("messages", "prompt", "instructions", "input")

Caller = Annotated[Identity, with_scope("tasks")]

type Recalled = Callable[[Identity, Headers, Metadata], Awaitable[Recall]]
type Tokens = Annotated[int | None, Field(ge=1)]


class Asked(BaseModel):
    """What is asked of a model, as far as it is looked at here; what else may go on goes as it is."""

    model_config = ConfigDict(extra="allow")

    model: str

    @model_validator(mode="before")
    @classmethod
    def _can_be_sent(cls, body: Any) -> Any:
        try:
            json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:  # half of a character, a number without end
            raise ValueError("holds what cannot be sent on as JSON") from None
        if isinstance(body, dict) and (others := sorted(body.keys() - cls.model_fields - PASSED_ON)):
            raise ValueError(f"{others[0][:50]} is not passed on to models here")
        return body


class Answered(Asked):
    """What is asked for one answer: of no more tokens than MAX_TOKENS, whichever of its fields says how many."""

    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(default=None, ge=1, le=1)


class Chat(Answered):
    """What is said by now."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    metadata: Metadata | None = None
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None


class Completions(Answered):
    """A text that is to go on: one, for each has an answer of its own."""

    prompt: str | list[int]
    max_tokens: Tokens = None


class Function(BaseModel):
    """A tool that the client runs. Others the model's server would run, and reach what it reaches."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]


class Responses(Answered):
    """What OpenAI's newer interface asks. The model's server must keep nothing: it does not know our users apart."""

    input: str | list[dict[str, Any]]
    max_output_tokens: Tokens = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = False
    tools: list[Function] = []


class Embeddings(Asked):
    """Texts that are to become vectors."""

    input: str | list[str] | list[int] | list[list[int]]


PATHS = {"chat/completions": Chat, "completions": Completions, "responses": Responses, "embeddings": Embeddings}


def install(app: FastAPI, runs: Runs, models: Models, recalled: Recalled, settings: OrchestratorSettings) -> None:
    """Make ``app`` answer below ``/v1``."""

    def shown(name: str) -> dict[str, Any]:
        if name not in models:
            raise Problem(HTTPStatus.NOT_FOUND, f"There is no model called {name[:200]} here.", code="model_not_found")
        return {"id": name, "object": "model", "created": 0, "owned_by": "vllm-swarm"}

    async def may_ask(request: Request) -> None:  # a gate: a refusal reads no body
        runs.check((await who_sent(request)).user_id)

    async def asked_of(model: Model, path: str, body: dict[str, Any], recall: Recall, run: Run) -> Response | None:
        name, asked = run.task.model, body.get("messages")
        if asked and recall.keeps:
            body["messages"] = await recall.before(asked)
        shows = path == "responses" or bool((body.get("stream_options") or {}).get("include_usage"))
        if body.get("stream") and path != "responses":
            body["stream_options"] = {**(body.get("stream_options") or {}), **ASKS_FOR_USAGE["stream_options"]}
        read = estimated(json.dumps([body.get(one) for one in QUESTIONS], ensure_ascii=False))
        count = Count(read, hears=recall.keeps, shows=shows)
        with metrics.model_asked(name):
            async with model.passed_on(path, body) as answer:
                if not body.get("stream"):
                    try:
                        said = json.loads(await answer.aread())
                    except ValueError as error:
                        raise Problem(HTTPStatus.BAD_GATEWAY, "What the model answered is not complete.") from error
                    if not isinstance(said, dict) or not count.told(said.get("usage")):
                        count.written = estimated(json.dumps(said))
                    runs.spending.add(recall.owner.user_id, name, count)
                    stored = recall.keeps and await recall.keep(asked or [], content_of(said, "message"))
                    headers = {"X-Swarm-Stored": "yes" if stored else "no"} if recall.keeps else {}
                    return JSONResponse(said, answer.status_code, headers)
                try:
                    async for data in answer.aiter_bytes():
                        sent_on = count.pass_by(data)
                        if count.whole:  # who has read the end may leave, so it is kept before that is sent
                            await recall.keep(asked or [], count.heard)
                        run.tell(sent_on.decode(errors="replace"))
                finally:
                    runs.spending.add(recall.owner.user_id, name, count)
        return None

    def add(path: str, kind: type[Asked]) -> None:
        async def ask(asked: kind, user: Caller, headers: Annotated[Headers, Header()], request: Request) -> Response:  # type: ignore[valid-type]
            body = asked.model_dump(exclude_unset=True)  # type: ignore[attr-defined]
            metadata = Metadata()
            if isinstance(asked, Chat) and body.pop("metadata", None):
                metadata = asked.metadata or metadata
                if metadata.model_extra:  # an empty one OpenAI's own server would refuse
                    body["metadata"] = metadata.model_extra
            if isinstance(asked, Answered):
                names = [name for name in type(asked).model_fields if name.startswith("max_")]
                given = [name for name in names if body.get(name)] or names[:1]
                body |= {name: min(body.get(name) or settings.max_tokens, settings.max_tokens) for name in given}
            if isinstance(asked, Responses):
                body["store"] = False
            headers = headers if isinstance(asked, Chat) else Headers()
            recall = await recalled(user, headers, metadata)
            name = shown(body["model"])["id"]
            task = new_task(f"{path} of OpenAI's interface", name, None, settings.longest_seconds)
            async with AsyncExitStack() as stack:
                work = partial(asked_of, models[name], path, body, recall)
                run = await runs.queue(task, recall.owner, work)
                stack.callback(run.stop, Cancelled())
                answer = await run.next(request)
                if not isinstance(answer, Response):
                    answer = StreamingResponse(_told(answer, run, stack.pop_all()), media_type="text/event-stream")
                answer.headers.update(runs.spending.headers(user.user_id))
                return answer

        gate = [Gate(may_ask)]
        app.post(f"/v1/{path}", tags=["OpenAI's interface"], name=kind.__name__.lower(), dependencies=gate)(ask)

    for path, kind in PATHS.items():
        add(path, kind)

    @app.get("/v1/models", tags=["OpenAI's interface"])
    async def list_models(_: Caller) -> dict[str, Any]:
        return {"object": "list", "data": [shown(name) for name in models]}

    @app.get("/v1/models/{name:path}", tags=["OpenAI's interface"])
    async def get_model(name: str, _: Caller) -> dict[str, Any]:
        return shown(name)


async def _told(event: str | Result, run: Run, leaving: AsyncExitStack) -> AsyncIterator[str]:
    """The answer as it comes; the last event says it when it is not whole."""
    async with leaving:
        try:
            while isinstance(event, str):
                yield event
                event = await run.next()
        except Problem as problem:
            yield f"data: {json.dumps({'error': {'message': problem.detail, 'code': problem.status_code}})}\n\n"
