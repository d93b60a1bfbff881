"""OpenAI's interface, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import agents
import httpx
import openai
import pytest
from neighbours import bearer

type Start = Callable[..., Awaitable[httpx.AsyncClient]]
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


async def test_models_and_embeddings(client: openai.AsyncOpenAI) -> None:
    assert "echo" in {one.id async for one in client.models.list()}
    answer = await client.embeddings.create(model="echo", input=["a", "b"])
    assert [len(one.embedding) for one in answer.data] == [3, 3]
    assert len((await client.embeddings.create(model="echo", input="a text")).data) == 1
    nothing: Any = None
    with pytest.raises(openai.UnprocessableEntityError):
        await client.embeddings.create(model="echo", input=nothing)


async def test_errors(client: openai.AsyncOpenAI, http: httpx.AsyncClient, model_url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="There is no model called gpt-9"):
        await client.chat.completions.create(model="gpt-9", messages=ASKED)
    with pytest.raises(openai.UnprocessableEntityError):
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
    assert (await http.get("/tasks", headers=user)).json() == {"tasks": []}


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
