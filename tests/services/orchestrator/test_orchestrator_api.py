"""orchestrator as a whole, on a real Redis, with a model that is a real HTTP server."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import threading
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest_stores import drift, execute
from neighbours import Neighbour, bearer, sent_by

type Start = Callable[..., Awaitable[httpx.AsyncClient]]


async def ask(http: httpx.AsyncClient, user: dict[str, str], prompt: str = "what now?", **more: Any) -> httpx.Response:
    return await http.post("/tasks", json={"prompt": prompt, **more}, headers=user)


def events(text: str) -> list[tuple[str, Any]]:
    """What a stream of server-sent events says."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def id_of(user: dict[str, str]) -> str:
    return str(sent_by({"authorization": user["Authorization"]})["sub"])


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


async def test_what_is_remembered_fits(http: httpx.AsyncClient, user: dict[str, str], memory: Any) -> None:
    prompt = "word " * 3199 + "end"
    task = (await ask(http, user, prompt)).json()
    [kept] = memory.texts[id_of(user)]
    assert kept["text"] == f"Asked: {prompt}\nAnswered: {task['answer']}"[:16_000]
    assert len(kept["text"]) == 16_000


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
    first = (await http.get("/tasks?limit=2", headers=user)).json()
    rest = (await http.get("/tasks", params={"limit": 2, "after": first["next"]}, headers=user)).json()
    assert [[one["id"] for one in page["tasks"]] for page in (first, rest)] == [ids[:0:-1], ids[:1]]
    assert rest["next"] is None
    assert (await http.get("/tasks?after=x", headers=user)).status_code == 422
    assert (await http.get("/tasks", headers=other)).json()["tasks"] == []
    assert (await http.get(f"/tasks/{ids[0]}", headers=other)).status_code == 404
    assert (await http.get(f"/tasks/{ids[0]}", headers=user)).status_code == 200


@pytest.mark.parametrize(
    ("model", "status", "sentence"),
    [
        ("broken", 502, "refused with 500: the model is not well."),
        ("cut", 502, "broke off in the middle of its answer."),
        ("garbage", 502, "does not speak the chat API."),
        ("empty", 502, "The model answered with nothing."),
        ("no-such-model", 404, "refused with 404: The model `no-such-model` does not exist."),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_fails(
    http: httpx.AsyncClient, memory: Any, user: dict[str, str], model: str, status: int, sentence: str, stream: bool
) -> None:
    answer = await ask(http, user, model=model, stream=stream)
    if answer.status_code == 200:  # the answer had begun
        assert stream
        name, told = events(answer.text)[-1]
        assert name == "error"
    else:
        told = answer.json()
        assert answer.status_code == status
    assert told["status"] == status
    assert told["detail"].endswith(sentence)
    task = (await http.get(f"/tasks/{told['task_id']}", headers=user)).json()
    assert (task["state"], task["error"]) == ("failed", told["detail"])
    assert memory.texts[id_of(user)] == []


async def test_a_model_that_nobody_may_ask_for(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    answer = await ask(http, user, model="default")
    assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such model here.")


async def test_a_model_that_is_unwell_for_a_moment_is_asked_again(
    http: httpx.AsyncClient, user: dict[str, str]
) -> None:
    assert (await ask(http, user, f"once {uuid.uuid4()}", model="flaky")).status_code == 201


async def test_no_model(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and not listening
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        http = await started(app(database, model_url=f"{address}/v1/"))
        answer = await ask(http, user)
    assert answer.status_code == 502
    assert address.removeprefix("http://") not in answer.text  # it is the operator's
    assert answer.json()["detail"].startswith("No model answers;")


async def test_a_conversation_stays_at_an_address_and_one_that_is_away_costs_nobody_the_answer(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], model_url: str
) -> None:
    """One that nobody listens at, one that is not ready, two that answer."""
    from server import Handler, serve  # here, as the tests that need no stores must do without it

    class Unready(Handler):
        def do_POST(self) -> None:  # noqa: N802
            self.rfile.read(int(self.headers["Content-Length"]))
            self._error(503, "loading")

    unready, second = (serve("127.0.0.1", 0) for _ in range(2))
    unready.RequestHandlerClass = Unready
    by_second: list[str] = []
    second.RequestHandlerClass = type("Second", (Handler,), {"log_message": lambda *_: by_second.append("")})
    with socket.socket() as unused, ExitStack() as stack:
        unused.bind(("127.0.0.1", 0))  # and not listening
        for server in (unready, second):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        ports = [unused.getsockname()[1], *(server.server_address[1] for server in (unready, second))]
        urls = " ".join(f"http://127.0.0.1:{port}/v1/" for port in ports)
        http = await started(app(database, model_url=f"{urls} {model_url}", models="broken", tasks_per_user=99))
        at_second = set()
        for number in range(20):
            assert (await ask(http, user, f"what is {number}?")).status_code == 201
            said = [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"{number}, and now?"}]
            seen = [len(by_second)]
            for _ in range(3):
                answer = await http.post("/v1/chat/completions", json={"model": "echo", "messages": said}, headers=user)
                assert answer.status_code == 200
                seen.append(len(by_second))
                said += [{"role": "assistant", "content": "That."}, {"role": "user", "content": "and then?"}]
            assert seen[3] - seen[0] in (0, 3)  # where its prefix may be cached
            at_second.add(seen[3] - seen[0])
        assert at_second == {0, 3}
        answer = await ask(http, user, model="broken")
        assert (answer.status_code, "127.0.0.1" in answer.text) == (502, False)


@pytest.mark.parametrize("model", ["silent", "slow"])
async def test_a_model_that_takes_too_long(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], model: str
) -> None:
    http = await started(app(database, model_timeout_seconds=1.5))
    answer = await ask(http, user, model=model)
    assert answer.status_code == 504
    task = (await http.get(f"/tasks/{answer.json()['task_id']}", headers=user)).json()
    assert task["state"] == "failed"


async def test_tasks_wait_for_a_place(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str],
    words: threading.Semaphore, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(database, model_concurrency=1))
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
        words.release(10_000)
    assert {one["state"] for one in (await http.get("/tasks", headers=user)).json()["tasks"]} == {"done"}


async def states(http: httpx.AsyncClient, user: dict[str, str]) -> list[str]:
    return [one["state"] for one in (await http.get("/tasks", headers=user)).json()["tasks"]]


def background(http: httpx.AsyncClient, user: dict[str, str], prompt: str, **more: Any) -> Awaitable[httpx.Response]:
    return ask(http, user, prompt, background=True, **more)


async def test_what_is_stopped_is_done_by_another_one(
    app: Callable[..., Any], database: dict[str, Any], user: dict[str, str], http: httpx.AsyncClient,
    words: threading.Semaphore, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    from asgi_lifespan import LifespanManager

    stopped = app(database, model_name="slow")
    async with LifespanManager(stopped):
        client = httpx.AsyncClient(transport=httpx.ASGITransport(stopped), base_url="http://stopped", timeout=None)

        async def healthy() -> bool:
            return (await client.get("/health")).status_code == 200

        await eventually(healthy)
        asking = asyncio.create_task(ask(client, user, "Which colour?"))

        async def running() -> bool:
            return await states(http, user) == ["running"]

        await eventually(running)
    answer = await asking
    assert (answer.status_code, answer.json()["detail"].partition(";")[0]) == (503, "The orchestrator is stopping")

    async def taken_over() -> bool:
        return await states(http, user) == ["running"]

    await eventually(taken_over)
    words.release(10_000)

    async def done() -> bool:
        return await states(http, user) == ["done"]

    await eventually(done)
    [task] = (await http.get("/tasks", headers=user)).json()["tasks"]
    assert "You asked: Which colour?" in task["answer"]
    assert await execute(database, "SELECT count(*) FROM orchestrator.tasks WHERE token <> ''") == "<Record count=0>"


async def test_a_task_in_the_background_is_done_whoever_leaves(
    http: httpx.AsyncClient, user: dict[str, str], eventually: Callable[..., Awaitable[None]]
) -> None:
    answer = await background(http, user, "a b")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")

    async def done() -> bool:
        return bool((await http.get(answer.headers["Location"], headers=user)).json()["state"] == "done")

    await eventually(done)


async def test_a_task_that_is_sent_again_with_its_key_is_the_same_one(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str],
    received: list[dict[str, Any]], words: threading.Semaphore,
) -> None:  # fmt: skip
    http, elsewhere, full = [await started(app(database, tasks_per_user=most)) for most in (8, 8, 1)]
    first = {**user, "Idempotency-Key": '"ü 1"'.encode("latin-1")}
    made = await ask(http, first, "one")
    again = [await ask(at, first, "one", **more) for at, more in ((elsewhere, {}), (http, {"background": True}))]
    assert (made.status_code, "Idempotent-Replayed" in made.headers) == (201, False)
    for answer in again:
        assert (answer.status_code, answer.json(), len(received)) == (200, made.json(), 1)
        assert (answer.headers["Idempotent-Replayed"], answer.headers["Location"]) == (
            "true",
            f"/tasks/{made.json()['id']}",
        )
    for another in ({"prompt": "two"}, {"prompt": "one", "session": "s"}, {"prompt": "one", "model": "slow"}):
        refused = await http.post("/tasks", json=another, headers=first)
        assert (refused.status_code, "Idempotency-Key" in refused.json()["detail"]) == (422, True)
    assert (await ask(http, {**first, **other}, "one")).status_code == 201
    assert (await ask(http, {**user, "Idempotency-Key": "x" * 256}, "one")).status_code == 422

    # Many at once make one, in whichever processes; and it is told though the user may make no other.
    second = {**user, "Idempotency-Key": "2"}
    sent = (ask(at, second, "long", model="slow", background=True) for at in (http, elsewhere) * 4)
    answers = await asyncio.gather(*sent)
    assert sorted(one.status_code for one in answers) == [200] * 7 + [202]
    assert len({one.json()["id"] for one in answers}) == 1
    assert (await ask(full, {**user, "Idempotency-Key": "3"}, "more")).status_code == 429
    assert (await ask(full, second, "long", model="slow")).status_code == 200
    [task, _] = (await http.get("/tasks", headers=user)).json()["tasks"]
    # Who deletes it may send the key again.
    while (await http.delete(f"/tasks/{task['id']}", headers=user)).status_code == 204:
        await asyncio.sleep(0.1)
    assert (await background(http, second, "another", model="slow")).status_code == 202
    words.release(10_000)


async def test_places_are_shared_between_users(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str],
    words: threading.Semaphore, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    """Three places in two processes; one user asks for twelve things, and gets two, then another for one."""
    one, two = [await started(app(database, model_concurrency=3)) for _ in range(2)]
    for number in range(12):
        await background((one, two)[number % 2], user, f"a {number}", model="slow")

    async def both() -> bool:
        return sorted(await states(one, user)) == ["queued"] * 10 + ["running"] * 2

    await eventually(both)
    late = (await background(two, other, "b", model="slow")).headers["Location"]

    async def its_turn() -> bool:
        assert (await states(one, user)).count("running") <= 2
        words.release(2)  # until one of both that run has ended
        return await states(one, other) == ["running"]

    await eventually(its_turn)
    assert (await states(one, user)).count("queued") >= 8
    # Cancelled at a process that does not do it.
    assert (await one.delete(late, headers=other)).status_code == 204
    for task in (await one.get("/tasks", headers=user)).json()["tasks"]:
        assert (await two.delete(f"/tasks/{task['id']}", headers=user)).status_code == 204
    assert set(await states(two, user)) <= {"cancelled", "done"}

    async def free() -> bool:
        return bool((await ask(one, other, "c")).status_code == 201)

    await eventually(free)


async def test_who_cancels_frees_the_place(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str],
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(database, model_concurrency=1, model_timeout_seconds=50))
    asking = asyncio.create_task(ask(http, user, "a long story", model="silent"))

    async def running() -> bool:
        return await states(http, user) == ["running"]

    await eventually(running)
    [task] = (await http.get("/tasks", headers=user)).json()["tasks"]
    place = f"/tasks/{task['id']}"
    assert (await http.delete(place, headers=other)).status_code == 404
    assert (await http.delete(place, headers=user)).status_code == 204
    answer = await asking
    assert (answer.status_code, answer.json()["detail"]) == (409, "The task was cancelled.")
    assert (await ask(http, user)).status_code == 201
    assert (await http.get(place, headers=user)).json()["state"] == "cancelled"
    assert (await http.delete(place, headers=user)).status_code == 204
    assert (await http.get(place, headers=user)).status_code == 404


async def test_a_user_cannot_fill_the_queue(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str]
) -> None:
    http = await started(app(database, tasks_per_user=3))
    statuses = [(await background(http, user, "a", model="silent")).status_code for _ in range(5)]
    assert statuses == [202, 202, 202, 429, 429]
    assert (await ask(http, other)).status_code == 201
    for task in (await http.get("/tasks", headers=user)).json()["tasks"]:
        await http.delete(f"/tasks/{task['id']}", headers=user)
    while (answer := await ask(http, user)).status_code == 429:  # until they have ended
        await asyncio.sleep(0.05)
    assert answer.status_code == 201


async def test_more_connections_to_the_model_than_a_client_has_by_itself(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import server as model

    asked, more_than_100 = itertools.count(1), threading.Event()

    def pause() -> None:  # it says nothing before more have asked
        if next(asked) > 100:
            more_than_100.set()
        more_than_100.wait()

    monkeypatch.setattr(model, "pause", pause)
    http = await started(app(database, model_concurrency=200, tasks_per_user=200))
    answers = await asyncio.gather(*(ask(http, user, f"{number}", model="slow") for number in range(120)))
    said = [one.status_code for one in answers]
    assert set(said) <= {201, 503}, "on a machine that does other things a store may not answer one in time"
    assert said.count(201) > 100


async def test_auth_is_asked_once_for_a_task(http: httpx.AsyncClient, auth: Neighbour, user: dict[str, str]) -> None:
    await ask(http, user)
    auth.requests.clear()
    assert (await ask(http, user, session="s")).status_code == 201
    assert [(path, body["lasting"]) for _, path, _, body in auth.requests] == [("/exchange", True)]


async def test_without_scopes_for_memory_nothing_is_known_and_nothing_kept(
    http: httpx.AsyncClient, memory: Any
) -> None:
    user = bearer(f"user-{uuid.uuid4()}", scope="tasks")
    memory.requests.clear()
    answer = await ask(http, user)
    assert (answer.status_code, answer.json()["stored"], memory.requests) == (201, False, [])
    assert (await ask(http, bearer("reader", scope="memory:read"))).status_code == 403


async def test_strangers_are_refused_before_their_body_is_read(
    app: Callable[..., Any], database: dict[str, Any], started: Start,
    strangers: Callable[[Any], Awaitable[list[str]]],
) -> None:  # fmt: skip
    one = app(database)
    await started(one)
    assert await strangers(one) == ["GET /docs", "GET /docs/oauth2-redirect", "GET /health", "GET /openapi.json"]


async def test_the_tables_are_those_of_the_migrations(database: dict[str, Any]) -> None:
    from orchestrator.tables import Table

    assert await drift(database, Table.metadata) == []


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/tasks"), ("GET", "/tasks"), ("GET", "/usage"), ("GET", f"/tasks/{uuid.uuid4()}"),
])  # fmt: skip
async def test_nothing_without_a_credential(http: httpx.AsyncClient, method: str, path: str) -> None:
    body = {"prompt": "a"} if method == "POST" else None
    assert (await http.request(method, path, json=body)).status_code == 401
    assert (await http.request(method, path, json=body, headers=bearer("late", exp=1_700_000_000))).status_code == 401


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
@pytest.mark.parametrize("store", ["postgres", "redis"])
async def test_a_store_away_and_back(
    app: Callable[..., Any], linked: dict[str, Any], started: Start, user: dict[str, str], store: str, how: str,
    request: pytest.FixtureRequest, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    link = request.getfixturevalue(f"{store}_link")
    http = await started(app(linked))
    kept = (await ask(http, user)).json()
    if how == "cut":
        await link.cut()
    else:
        link.freeze()
    assert (await ask(http, user)).status_code == 503
    assert (await http.get("/tasks", headers=user)).status_code == 503
    assert (await http.get("/health")).status_code == 503
    await link.restore()

    async def back() -> bool:
        return (await ask(http, user)).status_code == 201

    await eventually(back)
    assert (await http.get(f"/tasks/{kept['id']}", headers=user)).json() == kept


async def test_a_day_has_so_many_tokens(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], eventually: Any
) -> None:
    http = await started(app(database, tokens_per_user_day=40))
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Which colour?"}]}
    counted = 0

    async def more() -> bool:
        return await spent(database, user) > counted

    first = await http.post("/v1/chat/completions", json=chat, headers=user)
    assert first.status_code == 200
    await eventually(more)
    counted = await spent(database, user)
    assert counted == first.json()["usage"]["total_tokens"]
    stream = await http.post("/v1/chat/completions", json={**chat, "stream": True}, headers=user)
    await eventually(more)
    counted = await spent(database, user)
    assert counted == 2 * first.json()["usage"]["total_tokens"], stream.text
    assert (await ask(http, user)).status_code == 201
    await eventually(more)
    assert await spent(database, user) >= 40
    other = await started(app(database, tokens_per_user_day=40))  # another process of the same service
    for client, path, body in (
        (http, "/tasks", {"prompt": "x"}), (http, "/v1/chat/completions", chat), (other, "/tasks", {"prompt": "x"}),
    ):  # fmt: skip
        refused = await client.post(path, json=body, headers=user)
        assert refused.status_code == 429, refused.text
        assert "40 tokens of this day" in refused.text
        assert 0 < int(refused.headers["Retry-After"]) <= 86401
    assert (await ask(http, bearer(f"user-{uuid.uuid4()}"))).status_code == 201


async def test_what_a_user_has_spent_is_told_at_once(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str],
    eventually: Any,
) -> None:  # fmt: skip
    http = await started(app(database, tokens_per_user_day=1000))
    today = datetime.now(UTC).date()
    before = {str(today - timedelta(days=ago)): ago for ago in (1, 30)}
    for ago in (1, 30, 31):
        values = (uuid.UUID(id_of(user)), today - timedelta(days=ago), ago)
        await execute(database, "INSERT INTO orchestrator.spent VALUES ($1, $2, $3)", *values)
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Which colour?"}]}
    used = (await http.post("/v1/chat/completions", json=chat, headers=user)).json()["usage"]["total_tokens"]

    async def usage(headers: dict[str, str] = user) -> Any:
        answer = await http.get("/usage", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    now = {"days": {str(today): used, **before}, "limit": 1000, "left": 1000 - used}
    assert await usage() == now  # not kept yet

    async def kept() -> bool:
        assert await usage() == now
        return await spent(database, user) == used

    await eventually(kept)
    assert await usage() == now
    assert list(now["days"]) == list((await usage())["days"])
    assert await usage(other) == {"days": {str(today): 0}, "limit": 1000, "left": 1000}
    assert (await http.get("/usage", headers=bearer("x", scope="memory:read"))).status_code == 403
    await execute(database, "UPDATE orchestrator.spent SET tokens = 5000 WHERE user_id = $1", uuid.UUID(id_of(user)))
    assert (await usage())["left"] == 0
    free = await started(app(database, tokens_per_user_day=0))
    told = (await free.get("/usage", headers=other)).json()
    assert told == {"days": {str(today): 0}, "limit": None, "left": None}


async def test_what_is_known_of_before_counts_and_is_no_way_round_the_limits(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], memory: Any,
    eventually: Any,
) -> None:  # fmt: skip
    http = await started(app(database, tokens_per_user_day=500))
    memory.texts[id_of(user)] = [{"id": str(uuid.uuid4()), "score": 0.5, "text": "teal " * 600}]
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Which colour?"}], "stream": True}
    with_memory = {**user, "X-Swarm-Memory": "on"}
    assert (await http.post("/v1/chat/completions", json=chat, headers=with_memory)).status_code == 200

    async def counted() -> bool:
        return await spent(database, user) > 500

    await eventually(counted)
    asked = len(memory.requests)
    assert (await http.post("/v1/chat/completions", json=chat, headers=with_memory)).status_code == 429
    assert len(memory.requests) == asked

    busy = bearer(f"user-{uuid.uuid4()}")
    http = await started(app(database, tasks_per_user=1))
    await background(http, busy, "a", model="silent")
    assert (
        await http.post("/v1/chat/completions", json=chat, headers={**busy, "X-Swarm-Session": "s"})
    ).status_code == 429
    assert len(memory.requests) <= asked + 2  # those of the task


async def spent(database: dict[str, Any], user: dict[str, str]) -> int:
    statement = "SELECT tokens FROM orchestrator.spent WHERE user_id = $1 AND day = (now() AT TIME ZONE 'UTC')::date"
    return int((await execute(database, statement, uuid.UUID(id_of(user)))).partition("tokens=")[2].rstrip(">") or 0)


async def test_a_model_has_an_endpoint_of_its_own(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], model_url: str,
    received: list[dict[str, Any]],
) -> None:  # fmt: skip
    away = {"model_url": "http://127.0.0.1:9/v1", "model_api_key": "the-usual-key", "model_name": "usual"}
    http = await started(app(database, **away, models=f"echo={model_url}", model_keys="echo=its-own-key"))
    assert (await ask(http, user, model="echo")).status_code == 201
    assert received[-1]["max_tokens"] == 4096
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Which colour?"}]}
    assert (await http.post("/v1/chat/completions", json=chat, headers=user)).status_code == 200
    assert (await ask(http, user)).status_code == 502
    names = (await http.get("/v1/models", headers=user)).json()["data"]
    assert [one["id"] for one in names] == ["usual", "echo"]


async def test_answers_of_before_do_not_bury_what_was_kept(
    http: httpx.AsyncClient, user: dict[str, str], memory: Any
) -> None:
    memory.texts[id_of(user)] = [{"id": str(uuid.uuid4()), "score": 0.5, "text": "My cat is called Kim."}]
    for number in range(6):
        assert (await ask(http, user, f"What is my cat called? {number}")).status_code == 201
    task = (await ask(http, user, "What is my cat called?")).json()
    texts = [one["text"] for one in task["context"]]
    assert texts[0] == "My cat is called Kim."
    assert [one.splitlines()[0] for one in texts[1:]] == [
        f"Asked: What is my cat called? {number}" for number in (5, 4)
    ]


async def test_metrics_are_for_who_knows_the_token(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str]
) -> None:
    assert (await (await started(app(database))).get("/metrics")).status_code == 404
    http = await started(app(database, metrics_token="the-token-of-metrics", models="broken, default"))
    assert (await http.get("/metrics")).status_code == 401
    assert (await http.get("/metrics", headers=user)).status_code == 401
    assert (await ask(http, user)).status_code == 201
    assert (await ask(http, user, model="broken")).status_code == 502
    for content, status in ((["no text"], 400), ("Which colour?", 200)):
        asked = {"model": "default", "messages": [{"role": "user", "content": content}]}
        assert (await http.post("/v1/chat/completions", json=asked, headers=user)).status_code == status
    assert (await http.get(f"/{uuid.uuid4()}")).status_code == 404
    told = (await http.get("/metrics", headers={"Authorization": "Bearer the-token-of-metrics"})).text
    assert 'swarm_requests_total{method="POST",route="/tasks",service="orchestrator",status="201"}' in told
    assert 'swarm_requests_total{method="",route="",service="orchestrator",status="404"}' in told
    assert 'swarm_request_seconds_bucket{le="10.0",route="/tasks",service="orchestrator"}' in told
    assert re.search(r'^swarm_tokens_total{kind="read",model="echo"} [1-9]', told, re.MULTILINE)
    assert 'swarm_model_seconds_count{model="echo",outcome="answered"}' in told
    assert 'swarm_model_seconds_count{model="broken",outcome="failed"}' in told
    # What was wrong with the question is no fault of the model's.
    assert 'swarm_model_seconds_count{model="default",outcome="refused"} 1' in told
    assert 'model="default",outcome="failed"' not in told
    assert re.search(r"^swarm_wait_seconds_count [1-9]", told, re.MULTILINE)
    for state in ("queued", "running"):
        assert f'swarm_tasks{{model="broken",state="{state}"}}' in told
    assert re.search(r'^swarm_first_token_seconds_count{model="echo"} [1-9]', told, re.MULTILINE)
    assert re.search(r'^swarm_connections{to="PostgreSQL"} \d', told, re.MULTILINE)
    assert "the-token" not in told
