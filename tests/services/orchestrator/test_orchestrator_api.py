"""orchestrator as a whole, on a real Redis, with a model that is a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest
from neighbours import Neighbour, user_of

type Start = Callable[..., Awaitable[httpx.AsyncClient]]


async def ask(http: httpx.AsyncClient, user: dict[str, str], prompt: str = "what now?", **more: Any) -> httpx.Response:
    with anyio.fail_after(60):
        return await http.post("/tasks", json={"prompt": prompt, **more}, headers=user)


def events(text: str) -> list[tuple[str, Any]]:
    """What a stream of server-sent events says."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def id_of(user: dict[str, str]) -> str:
    return user_of(user["Authorization"].removeprefix("Bearer "))


async def test_the_prompt_carries_what_is_remembered_and_the_answer_is_remembered(
    http: httpx.AsyncClient, memory: Any, user: dict[str, str]
) -> None:
    memory.texts[id_of(user)] = [{"id": str(uuid.uuid4()), "score": 0.5, "text": "Teal is my favourite."}]
    answer = await ask(http, user, "Which colour?")
    assert answer.status_code == 201
    task = answer.json()
    assert (task["state"], task["stored"], task["model"]) == ("done", True, "echo")
    assert "You asked: Which colour?" in task["answer"]
    assert "Teal is my favourite." in task["answer"]
    assert [one["text"] for one in task["context"]] == ["Teal is my favourite."]
    kept = memory.texts[id_of(user)][-1]
    assert "Which colour?" in kept["text"]
    assert task["answer"] in kept["text"]
    assert kept["metadata"] == {"source": "task", "task_id": task["id"]}
    assert (await http.get(answer.headers["Location"], headers=user)).json() == task


async def test_a_session_goes_on(http: httpx.AsyncClient, memory: Any, user: dict[str, str]) -> None:
    first = (await ask(http, user, "one", session="s-1")).json()
    assert "Before that 0 messages were said." in first["answer"]
    second = (await ask(http, user, "two", session="s-1")).json()
    assert "Before that 2 messages were said." in second["answer"]
    [said] = memory.sessions.values()
    assert [one["content"] for one in said] == ["one", first["answer"], "two", second["answer"]]


async def test_a_stream(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    answer = await ask(http, user, "a b c", stream=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    (first, begun), *tokens, (last, done) = events(answer.text)
    assert (first, last) == ("task", "done")
    assert begun["id"] == done["id"]
    assert {name for name, _ in tokens} == {"token"}
    assert len(tokens) > 5
    assert "".join(one["text"] for _, one in tokens) == done["answer"]
    assert (await http.get(f"/tasks/{done['id']}", headers=user)).json() == done


async def test_tasks_are_listed_newest_first_and_only_to_their_owner(
    http: httpx.AsyncClient, user: dict[str, str], other: dict[str, str]
) -> None:
    ids = [(await ask(http, user, f"task {number}")).json()["id"] for number in range(3)]
    listed = (await http.get("/tasks", headers=user)).json()["tasks"]
    assert [one["id"] for one in listed] == ids[::-1]
    assert len((await http.get("/tasks?limit=2", headers=user)).json()["tasks"]) == 2
    assert (await http.get("/tasks", headers=other)).json() == {"tasks": []}
    assert (await http.get(f"/tasks/{ids[0]}", headers=other)).status_code == 404
    assert (await http.get(f"/tasks/{ids[0]}", headers=user)).status_code == 200


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("broken", "refused with 500: the model is not well."),
        ("cut", "broke off in the middle of its answer."),
        ("garbage", "does not speak the chat API."),
        ("empty", "The model answered with nothing."),
        ("no-such-model", "refused with 404: The model `no-such-model` does not exist."),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_fails(
    http: httpx.AsyncClient, memory: Any, user: dict[str, str], model: str, sentence: str, stream: bool
) -> None:
    answer = await ask(http, user, model=model, stream=stream)
    if answer.status_code == 200:  # the answer had begun
        assert stream
        name, told = events(answer.text)[-1]
        assert name == "error"
    else:
        told = answer.json()
        assert answer.status_code == 502
    assert told["status"] == 502
    assert told["detail"].endswith(sentence)
    task = (await http.get(f"/tasks/{told['task_id']}", headers=user)).json()
    assert (task["state"], task["error"]) == ("failed", told["detail"])
    assert memory.texts[id_of(user)] == []


async def test_a_model_that_is_unwell_for_a_moment_is_asked_again(
    http: httpx.AsyncClient, user: dict[str, str]
) -> None:
    assert (await ask(http, user, f"once {uuid.uuid4()}", model="flaky")).status_code == 201


async def test_no_model(app: Callable[..., Any], stores: dict[str, Any], started: Start, user: dict[str, str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and not listening
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        http = await started(app(stores, model_url=f"{address}/v1/"))
        answer = await ask(http, user)
    assert answer.status_code == 502
    assert answer.json()["detail"] == (
        f"No model answers at {address}; start one there, or set MODEL_URL to where one is."
    )


@pytest.mark.parametrize("model", ["silent", "slow"])
async def test_a_model_that_takes_too_long(
    app: Callable[..., Any], stores: dict[str, Any], started: Start, user: dict[str, str], model: str
) -> None:
    http = await started(app(stores, model_timeout_seconds=1.5))
    answer = await ask(http, user, model=model)
    assert answer.status_code == 504
    task = (await http.get(f"/tasks/{answer.json()['task_id']}", headers=user)).json()
    assert task["state"] == "failed"


async def test_tasks_wait_for_a_place(
    app: Callable[..., Any], stores: dict[str, Any], started: Start, user: dict[str, str],
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(stores, model_concurrency=1, model_timeout_seconds=4))
    async with asyncio.TaskGroup() as group:
        group.create_task(ask(http, user, "first", model="slow"))

        async def running() -> bool:
            return [one["state"] for one in (await http.get("/tasks", headers=user)).json()["tasks"]] == ["running"]

        await eventually(running)
        group.create_task(ask(http, user, "second", model="slow"))

        async def queued() -> bool:
            tasks = (await http.get("/tasks", headers=user)).json()["tasks"]
            return [one["state"] for one in tasks] == ["queued", "running"]

        await eventually(queued)
    assert {one["state"] for one in (await http.get("/tasks", headers=user)).json()["tasks"]} == {"failed"}


async def test_a_stop_says_so_in_the_state_of_what_was_being_done(
    app: Callable[..., Any], stores: dict[str, Any], user: dict[str, str], http: httpx.AsyncClient,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    from asgi_lifespan import LifespanManager

    stopped = app(stores)
    async with LifespanManager(stopped):
        client = httpx.AsyncClient(transport=httpx.ASGITransport(stopped), base_url="http://stopped", timeout=None)
        asking = asyncio.create_task(ask(client, user, model="slow"))

        async def running() -> bool:
            return [one["state"] for one in (await http.get("/tasks", headers=user)).json()["tasks"]] == ["running"]

        await eventually(running)
    asking.cancel()
    [task] = (await http.get("/tasks", headers=user)).json()["tasks"]
    assert (task["state"], task["error"]) == (
        "failed", "Nobody waited for the answer, or the orchestrator was stopped.",
    )  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("GET", "/tasks"), ("GET", f"/tasks/{uuid.uuid4()}")])
async def test_nothing_without_a_credential(http: httpx.AsyncClient, method: str, path: str) -> None:
    body = {"prompt": "a"} if method == "POST" else None
    assert (await http.request(method, path, json=body)).status_code == 401
    assert (await http.request(method, path, json=body, headers={"Authorization": "Bearer bad"})).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": " "},
        {"prompt": "x" * 16_001},
        {"prompt": "a", "session": "bad name"},
        {"prompt": "a", "session": "../x"},
        {"prompt": "a", "model": "bad model\n"},
        {"prompt": "a", "stream": "perhaps"},
    ],
)
async def test_what_is_not_as_asked_for(http: httpx.AsyncClient, user: dict[str, str], body: Any) -> None:
    assert (await http.post("/tasks", json=body, headers=user)).status_code == 422


async def test_memory_away_is_said_and_the_model_not_asked(
    http: httpx.AsyncClient, memory: Neighbour, user: dict[str, str]
) -> None:
    memory.answer = lambda *_: (500, {})
    answer = await ask(http, user)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The memory service answered with 500; try again soon."


async def test_an_answer_that_cannot_be_remembered_is_given_all_the_same(
    http: httpx.AsyncClient, memory: Neighbour, user: dict[str, str]
) -> None:
    able = memory.answer
    memory.answer = lambda method, path, *rest: (500, {}) if path == "/memories" else able(method, path, *rest)
    answer = await ask(http, user)
    assert answer.status_code == 201
    assert answer.json()["stored"] is False


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_redis_away_and_back(
    app: Callable[..., Any], stores: dict[str, Any], started: Start, user: dict[str, str], redis_link: Any, how: str,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(stores, redis_host="127.0.0.1", redis_port=redis_link.port))
    kept = (await ask(http, user)).json()
    if how == "cut":
        await redis_link.cut()
    else:
        redis_link.freeze()
    with anyio.fail_after(12):
        assert (await ask(http, user)).status_code == 503
        assert (await http.get("/tasks", headers=user)).status_code == 503
        assert (await http.get("/health")).status_code == 503
    await redis_link.restore()

    async def back() -> bool:
        return (await ask(http, user)).status_code == 201

    await eventually(back)
    assert (await http.get(f"/tasks/{kept['id']}", headers=user)).json() == kept
