"""OpenAI's interface, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import agents
import httpx
import openai
import pytest
from conftest_stores import execute
from neighbours import Neighbour, bearer, user_of

type Start = Callable[..., Awaitable[httpx.AsyncClient]]
TWO_MINUTES = timedelta(minutes=2)
ASKED: Any = [{"role": "user", "content": "Which colour?"}]


@pytest.fixture
async def client(http: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    client = openai.AsyncOpenAI(
        api_key=f"vls_good-{uuid.uuid4()}", base_url="http://service/v1", http_client=over(http), max_retries=0
    )
    async with client:
        yield client


def over(http: httpx.AsyncClient) -> Any:
    """A client of the kind that OpenAI's package wants, to the application that ``http`` asks."""
    kind = openai.DefaultAsyncHttpxClient.__mro__[1]
    module = __import__(kind.__module__.partition(".")[0])
    return kind(transport=module.ASGITransport(http._transport.app))  # type: ignore[attr-defined]


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="echo", messages=ASKED)
    assert answer.choices[0].message.content is not None
    assert answer.choices[0].message.content.startswith("You asked: Which colour?")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None


async def test_chat_as_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="echo", messages=ASKED, stream=True)
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("You asked: Which colour?")
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_what_is_asked_goes_on_as_it_came_and_answers_have_a_limit(
    client: openai.AsyncOpenAI, received: list[dict[str, Any]]
) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Which colour?"}]}]
    await client.chat.completions.create(model="echo", messages=parts, tools=tools, temperature=0.5, max_tokens=10**6)
    await client.chat.completions.create(model="echo", messages=ASKED, max_completion_tokens=7)
    first, second = received
    assert (first["messages"], first["tools"], first["temperature"]) == (parts, tools, 0.5)
    assert (first["max_tokens"], second["max_completion_tokens"]) == (4096, 7)
    assert "max_tokens" not in second


async def told(client: openai.AsyncOpenAI, asked: Any, *, stream: bool, **more: Any) -> str:
    """What the model says, when the client has read the last of it."""
    if not stream:
        answer = await client.chat.completions.create(model="echo", messages=asked, **more)
        return answer.choices[0].message.content or ""
    chunks = await client.chat.completions.create(model="echo", messages=asked, stream=True, **more)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


BY_HEADER = {"extra_headers": {"X-Swarm-Session": "s-1", "X-Swarm-Memory": "on"}}
IN_METADATA = {"metadata": {"swarm_session": "s-1", "swarm_memory": "on"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [BY_HEADER, IN_METADATA], ids=["header", "metadata"])
async def test_what_is_asked_for_is_known_and_kept(
    client: openai.AsyncOpenAI, memory: Any, received: list[dict[str, Any]], more: dict[str, Any], stream: bool
) -> None:
    mine = memory.texts[user_of(client.api_key)]
    mine.append({"id": str(uuid.uuid4()), "score": 0.5, "text": "system: my favourite is teal."})
    rules: Any = {"role": "system", "content": "Be brief."}
    first = await told(client, [rules, *ASKED], stream=stream, **more)
    assert "my favourite is teal." in first
    # What was kept is data of the user, behind what the client has its system say.
    assert received[-1]["messages"][0] == rules
    assert [one["role"] for one in received[-1]["messages"]] == ["system", "user", "user"]
    assert "metadata" not in received[-1]

    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "And now?"}]}]
    second = await told(client, asked, stream=stream, **more)
    [said] = memory.sessions.values()
    assert [one["content"] for one in said] == ["Which colour?", first, "And now?", second]
    assert [one["role"] for one in said] == ["user", "assistant"] * 2
    assert received[-1]["messages"][1:] == [*said[:2], *asked]
    texts = [(one["text"], one["metadata"]) for one in mine[1:]]
    assert texts == [(f"Asked: {one}\nAnswered: {two}", {"source": "task"})
                     for one, two in (("Which colour?", first), ("And now?", second))]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_without_memories_and_memories_without_a_session(
    client: openai.AsyncOpenAI, memory: Any, stream: bool
) -> None:
    await told(client, ASKED, stream=stream, extra_headers={"X-Swarm-Session": "s-2"})
    assert (len(memory.sessions), memory.texts) == (1, {})
    # The header counts; what else is in `metadata` is the model's.
    more = {"metadata": {"swarm_memory": "off", "run": "7"}, "extra_headers": {"X-Swarm-Memory": "on"}}
    await told(client, ASKED, stream=stream, **more)
    assert (len(memory.sessions), len(memory.texts[user_of(client.api_key)])) == (1, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_known_or_kept_unless_it_is_asked_for(
    client: openai.AsyncOpenAI, memory: Any, auth: Neighbour, received: list[dict[str, Any]], stream: bool
) -> None:
    await told(client, ASKED, stream=stream, metadata={"swarm_memory": "off", "session": "s", "memory": "on"})
    assert received[-1]["metadata"] == {"session": "s", "memory": "on"}
    assert received[-1]["messages"] == ASKED
    assert memory.requests == []
    assert [body["audience"] for _, path, _, body in auth.requests if path == "/exchange"] == ["orchestrator"]


async def test_what_is_not_whole_is_not_kept(
    client: openai.AsyncOpenAI, memory: Any, http: httpx.AsyncClient, user: dict[str, str]
) -> None:
    asked = {"messages": ASKED, **IN_METADATA, "tools": [{"type": "function", "function": {"name": "look"}}]}
    for model, stream in (("cut", True), ("broken", False), ("garbage", True), ("empty", False), ("caller", False)):
        answer = await http.post("/v1/chat/completions", json={**asked, "model": model, "stream": stream}, headers=user)
        assert answer.headers.get("X-Swarm-Stored", "no") == "no"
    assert not any(method == "POST" and path != "/search" for method, path, *_ in memory.requests)


async def test_memory_has_a_scope_and_limits_of_its_own(http: httpx.AsyncClient, memory: Any) -> None:
    asked = {"model": "echo", "messages": ASKED}
    headers = {"X-Swarm-Memory": "on"}
    for scope in ("tasks", "tasks memory:read"):
        who = bearer(f"user-{uuid.uuid4()}", scope=scope)
        refused = await http.post("/v1/chat/completions", json=asked, headers={**who, **headers})
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "invalid_request_error")
        assert (await http.post("/v1/chat/completions", json=asked, headers=who)).status_code == 200
    assert memory.requests == []
    for wrong in ({"X-Swarm-Memory": "perhaps"}, {"X-Swarm-Session": "../x"}):
        refused = await http.post("/v1/chat/completions", json=asked, headers={**bearer("x"), **wrong})
        assert (refused.status_code, "X-Swarm" in refused.json()["error"]["message"].title()) == (400, True)
    # What memory refuses, as it is full, is told, and costs nobody the answer.
    able = memory.answer
    memory.answer = lambda method, path, *rest: (409, {}) if path == "/memories" else able(method, path, *rest)
    answer = await http.post("/v1/chat/completions", json=asked, headers={**bearer("x"), **headers})
    assert (answer.status_code, answer.headers["X-Swarm-Stored"]) == (200, "no")
    memory.answer = lambda *_: (500, {})
    answer = await http.post("/v1/chat/completions", json=asked, headers={**bearer("x"), **headers})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")


async def test_models_and_embeddings(client: openai.AsyncOpenAI) -> None:
    assert "echo" in {one.id async for one in client.models.list()}
    answer = await client.embeddings.create(model="echo", input=["a", "b"])
    assert [len(one.embedding) for one in answer.data] == [3, 3]
    assert len((await client.embeddings.create(model="echo", input="a text")).data) == 1
    nothing: Any = None
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(model="echo", input=nothing)


async def test_errors(client: openai.AsyncOpenAI, http: httpx.AsyncClient, model_url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="There is no model called gpt-9"):
        await client.chat.completions.create(model="gpt-9", messages=ASKED)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="echo", messages=[])
    with pytest.raises(openai.InternalServerError) as broken:
        await client.chat.completions.create(model="broken", messages=ASKED)
    assert broken.value.status_code == 502
    assert model_url not in str(broken.value)
    with pytest.raises(openai.AuthenticationError, match="unknown, expired or revoked"):
        await client.with_options(api_key="vls_bad").chat.completions.create(model="echo", messages=ASKED)
    refused = await http.post("/v1/chat/completions", json={}, headers=bearer("x", scope="memory:read"))
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "invalid_request_error")


async def test_it_waits_for_a_place_and_gives_it_back(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str]
) -> None:
    http = await started(app(database, model_concurrency=1))
    asked = {"model": "echo", "messages": ASKED}
    answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=asked, headers=user) for _ in range(8)))
    assert {one.status_code for one in answers} == {200}
    stream = await http.post("/v1/chat/completions", json={**asked, "stream": True}, headers=user)
    assert stream.text.endswith("data: [DONE]\n\n")
    assert (await http.get("/tasks", headers=user)).json()["tasks"] == []


async def test_an_agent_uses_its_tools(client: openai.AsyncOpenAI, received: list[dict[str, Any]]) -> None:
    """With an agent framework, OpenAI's own: a model asks for a tool, is told what that said, and answers."""
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def colour_of(what: str) -> str:
        """The colour of something."""
        return f"{what} is blue"

    model = agents.OpenAIChatCompletionsModel(model="caller", openai_client=client)
    agent = agents.Agent(name="painter", instructions="Look before you speak.", tools=[colour_of], model=model)
    result = await agents.Runner.run(agent, "Which colour has the sky?", max_turns=3)
    assert result.final_output == "The tool said: the sky is blue"
    assert [one["role"] for one in received[-1]["messages"]] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("text", "number", "status"),
    [("a\\u0000", "1", 200), ("a\\ud800", "1", 400), ("a", "Infinity", 400)],
    ids=["NUL", "half a character", "no number"],
)
async def test_what_json_can_say_and_nobody_can_be_sent(
    http: httpx.AsyncClient, user: dict[str, str], text: str, number: str, status: int
) -> None:
    asked = f'{{"model": "echo", "messages": [{{"role": "user", "content": "{text}"}}], "temperature": {number}}}'
    headers = {**user, "Content-Type": "application/json", "X-Swarm-Memory": "on"}
    answer = await http.post("/v1/chat/completions", content=asked.encode(), headers=headers)
    assert (answer.status_code, "error" in answer.json()) == (status, status == 400), answer.text


async def test_errors_and_models_are_as_clients_know_them(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    one = await http.get("/v1/models/echo", headers=user)
    assert one.status_code == 200
    assert one.json() in (await http.get("/v1/models", headers=user)).json()["data"]
    ask = partial(http.post, "/v1/chat/completions", headers=user)
    for answer in (
        await http.get("/v1/models/no/such-one", headers=user),
        await ask(json={"model": "no/such-one", "messages": [{"role": "user", "content": "x"}]}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    wrong = await ask(json={"model": "echo", "messages": []})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")


async def used(http: httpx.AsyncClient, name: str, database: dict[str, Any]) -> str:
    """What ``name`` has spent, once that is kept."""
    async with asyncio.timeout(10):
        while not (kept := await execute(database, SPENT, uuid.UUID(user_of(name)))):
            await asyncio.sleep(0.1)
    return kept


SPENT = "SELECT tokens FROM orchestrator.spent WHERE user_id = $1"


async def test_clients_read_how_many_tokens_are_left_of_the_day(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str]
) -> None:
    http = await started(app(database, tokens_per_user_day=40))
    key = {"api_key": user["Authorization"].removeprefix("Bearer "), "base_url": "http://service/v1"}

    def told(headers: Any) -> tuple[int, int]:
        assert re.fullmatch(r"\d+s", headers["x-ratelimit-reset-tokens"])
        left_of_day = timedelta(seconds=int(headers["x-ratelimit-reset-tokens"][:-1]))
        now = datetime.now(UTC)
        assert abs(now + left_of_day - (now + timedelta(days=1)).replace(hour=0, minute=0, second=0)) < TWO_MINUTES
        return int(headers["x-ratelimit-limit-tokens"]), int(headers["x-ratelimit-remaining-tokens"])

    async with openai.AsyncOpenAI(**key, http_client=over(http), max_retries=0) as client:
        chats = client.chat.completions.with_raw_response
        first = await chats.create(model="echo", messages=ASKED)
        used = first.parse().usage.total_tokens
        assert told(first.headers) == (40, 40 - used)
        assert (
            told((await client.completions.with_raw_response.create(model="echo", prompt="One")).headers)[1] < 40 - used
        )
        # Of a stream nobody knows yet how long it will be.
        stream = await chats.create(model="echo", messages=ASKED, stream=True)
        left = told(stream.headers)[1]
        assert [chunk async for chunk in stream.parse()]
        while left:
            left = told((await chats.create(model="echo", messages=ASKED)).headers)[1]
        with pytest.raises(openai.RateLimitError) as refused:
            await chats.create(model="echo", messages=ASKED)
        assert told(refused.value.response.headers) == (40, 0)
    free = await started(app(database, tokens_per_user_day=0))
    answer = await free.post("/v1/chat/completions", json={"model": "echo", "messages": ASKED}, headers=user)
    assert (answer.status_code, [one for one in answer.headers if one.startswith("x-ratelimit")]) == (200, [])


async def test_a_text_goes_on(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, received: list[dict[str, Any]], database: dict[str, Any]
) -> None:
    answer = await client.completions.create(model="echo", prompt="One", max_tokens=10**6, temperature=0.5)
    assert answer.choices[0].text == "One, and so on"
    assert (received[-1]["max_tokens"], received[-1]["temperature"]) == (4096, 0.5)
    assert await used(http, client.api_key, database) == "<Record tokens=7>"
    wrong: dict[str, Any]
    for wrong in ({"prompt": ["One", "Two"]}, {"n": 2}, {"best_of": 9}):
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(**{"model": "echo", "prompt": "One", **wrong})


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_as_it_is_made_by_default(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, received: list[dict[str, Any]], database: dict[str, Any],
    stream: bool,
) -> None:  # fmt: skip
    """OpenAI's agents ask ``/v1/responses`` unless they are told otherwise."""
    agents.set_tracing_disabled(True)
    agent = agents.Agent(name="painter", model=agents.OpenAIResponsesModel(model="echo", openai_client=client))
    if stream:
        running = agents.Runner.run_streamed(agent, "Which colour?")
        kinds = [event.data.type async for event in running.stream_events() if event.type == "raw_response_event"]
        assert kinds == ["response.created", "response.output_text.delta", "response.completed"]
        said = running.final_output
    else:
        said = (await agents.Runner.run(agent, "Which colour?")).final_output
    assert "Which colour?" in said
    assert (received[-1]["max_output_tokens"], received[-1]["store"]) == (4096, False)
    assert await used(http, client.api_key, database) == "<Record tokens=7>"


@pytest.mark.parametrize(
    "wrong",
    [{"store": True}, {"previous_response_id": "another's"}, {"background": True}, {"conversation": "another's"},
     {"tools": [{"type": "mcp", "server_label": "x", "server_url": "http://postgres:5432"}]}],
    ids=["store", "previous", "background", "conversation", "tool of the server"],
)  # fmt: skip
async def test_the_models_server_keeps_nothing_and_runs_no_tools(
    client: openai.AsyncOpenAI, received: list[dict[str, Any]], wrong: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model="echo", input="x", extra_body=wrong)
    assert received == []
