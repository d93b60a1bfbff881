"""What somebody may take of a model, and what is left of it for others: places, parameters, tokens."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from conftest_stores import execute
from neighbours import Neighbour, bearer
from test_orchestrator_api import ask, background, spent, states
from test_orchestrator_process import orchestrator

from common import callers, metrics
from common.identity import Identities

type Start = Callable[..., Awaitable[httpx.AsyncClient]]
CHAT: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Which colour?"}]}
SERVE = "/v1/chat/completions"
LEASE = timedelta(seconds=15)


class Holding(ThreadingHTTPServer):
    """A model that says nothing, and knows how many asked, and how many of them are still there."""

    daemon_threads = True
    asked = 0
    there = 0


class _Held(BaseHTTPRequestHandler):
    server: Holding

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        self.server.there += 1
        self.connection.recv(1)  # nothing is sent any more: it ends when who asked has gone
        self.server.there -= 1
        self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def holding() -> Iterator[Holding]:
    with Holding(("127.0.0.1", 0), _Held) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def url_of(server: Holding) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_stops_for_who_has_left_and_never_begins_for_who_waited(
    database: dict[str, Any], auth: Any, memory: Any, holding: Holding, user: dict[str, str], stream: bool
) -> None:
    with orchestrator(database, auth, memory, url_of(holding), MODEL_CONCURRENCY="1") as (http, _):

        def leaves(seconds: float) -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{http.base_url}{SERVE}", json={**CHAT, "stream": stream}, headers=user, timeout=seconds)

        clients = [threading.Thread(target=leaves, args=(seconds,)) for seconds in (4, 1.5, 1.5)]
        for client in clients:
            client.start()
            while not holding.asked:
                time.sleep(0.05)
        for client in clients:
            client.join()
        time.sleep(2)
        assert (holding.asked, holding.there) == (1, 0)
        assert http.get("/tasks", headers=user).json()["tasks"] == []


async def test_a_model_has_places_of_its_own(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str],
    words: threading.Semaphore, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(database, model_concurrency=1))
    await background(http, user, "a", model="slow")

    async def running() -> bool:
        return await states(http, user) == ["running"]

    await eventually(running)
    async with asyncio.timeout(10):
        assert (await http.post(SERVE, json=CHAT, headers=other)).status_code == 200
        assert (await ask(http, other)).status_code == 201


async def test_nobody_has_all_places_of_a_model(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str],
    words: threading.Semaphore, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(database, model_concurrency=4))
    for number in range(8):
        await background(http, user, f"a {number}", model="slow")
    await background(http, other, "b", model="slow")

    async def its_turn() -> bool:
        return await states(http, other) == ["running"]

    async with asyncio.timeout(10):
        await eventually(its_turn)
    assert sorted(await states(http, user)) == ["queued"] * 5 + ["running"] * 3


async def test_who_deletes_a_call_stops_it(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], holding: Holding,
    eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    one, two = [await started(app(database, model_url=url_of(holding), model_concurrency=1)) for _ in range(2)]
    for number, at in enumerate((one, two)):  # where it runs, and elsewhere
        asking = asyncio.create_task(one.post(SERVE, json=CHAT, headers=user))

        async def asked(count: int = number + 1) -> bool:
            return holding.asked == count

        async with asyncio.timeout(10):
            await eventually(asked)
            [task] = (await one.get("/tasks", headers=user)).json()["tasks"]
            assert (await at.delete(f"/tasks/{task['id']}", headers=user)).status_code == 204
            answer = await asking
        assert (answer.status_code, answer.json()["error"]["message"]) == (409, "The task was cancelled.")

        async def gone() -> bool:
            return holding.there == 0

        async with asyncio.timeout(2):
            await eventually(gone)


async def test_a_place_is_free_when_the_call_has_ended_and_not_before(
    app: Callable[..., Any], database: dict[str, Any], started: Start
) -> None:
    from common.postgres import Database
    from orchestrator.places import Places
    from orchestrator.settings import OrchestratorSettings
    from orchestrator.tables import Table
    from orchestrator.tasks import Tasks, new_task

    store = Database(OrchestratorSettings(**database), "tests", Table.metadata)
    tasks = Tasks(store, 60, 2)
    async with store.running():
        await store.prepare_until_done()
        here, there = Places(store, 1), Places(store, 1)
        owner = uuid.uuid4()

        async def queued(places: Places) -> uuid.UUID:
            task = new_task("a", f"model of {owner}", None, 30)
            lease = {"worker": places.worker, "lease_until": datetime.now(UTC) + LEASE}
            async with tasks.adding(task, owner, username="x", token=None, **lease):
                return task.id

        first, second = await queued(here), await queued(there)
        assert await here.look([first]) == {first: "running"}
        for _ in range(2):
            assert await tasks.cancel(owner, first)
            assert await there.look([second]) == {second: "queued"}
            assert await here.look([first]) == {first: "cancelled"}
            with pytest.raises(Exception, match="You have 2 tasks"):
                await queued(here)
        assert await here.look([]) == {}
        assert await there.look([second]) == {second: "running"}
        assert await tasks.cancel(owner, first)  # it has ended: forgotten
        assert await tasks.get(owner, first) is None


@pytest.mark.parametrize("by", ["here, which goes", "here", "there"])
async def test_what_changes_many_tasks_holds_none_of_them_while_it_waits_for_the_first(
    database: dict[str, Any], by: str, eventually: Callable[..., Awaitable[None]]
) -> None:
    """Two that lock the same rows, each in an order of its own, would wait for each other: a deadlock."""
    from sqlalchemy import text

    from common.postgres import Database
    from orchestrator.places import Places
    from orchestrator.settings import OrchestratorSettings
    from orchestrator.tables import Table
    from orchestrator.tasks import Tasks, new_task

    store = Database(OrchestratorSettings(**database), "tests", Table.metadata)
    tasks, owner = Tasks(store, 60, 99), uuid.uuid4()
    ids = sorted((uuid.uuid4() for _ in range(20)), reverse=True)
    async with store.running():
        await store.prepare_until_done()
        here, there = Places(store, 99), Places(store, 99)
        for one in ids:
            task = new_task("a", f"model of {owner}", None, 30).model_copy(update={"id": one})
            lease = {"worker": here.worker, "lease_until": datetime.now(UTC) + LEASE}
            async with tasks.adding(task, owner, username="x", token=None, **lease):
                pass
        doings = {
            "here, which goes": lambda: here.release([]),
            "here": lambda: here.look(ids),
            "there": lambda: there.look([]),
        }
        first = f"orchestrator.tasks WHERE id = '{ids[-1]}'"
        mine = f"SELECT id FROM orchestrator.tasks WHERE user_id = '{owner}' FOR UPDATE SKIP LOCKED"

        async def waits() -> bool:
            return "1" in await execute(
                database, "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            )

        async with store.begin() as connection:
            await connection.execute(text(f"SELECT FROM {first} FOR UPDATE"))
            doing = asyncio.create_task(doings[by]())
            await eventually(waits)
            assert len(await store.rows(text(mine))) == 19
        await doing
        for one in ids:
            await tasks.remove(one)


async def test_limits_hold_for_many_at_once(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str]
) -> None:
    two = [await started(app(database, tasks_per_user=3)) for _ in range(2)]
    answers = await asyncio.gather(*(background(two[n % 2], user, "a", model="silent") for n in range(24)))
    assert sorted({one.status_code for one in answers}) == [202, 429]
    assert [one.status_code for one in answers].count(202) == 3


async def test_overload_by_one_user_is_no_outage(
    app: Callable[..., Any], database: dict[str, Any], started: Start, other: dict[str, str], holding: Holding,
    auth: Neighbour, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As many as one user may have are begun; the rest is told at once to come again, and auth is asked twice."""
    wants, asks = Identities.exchange, Identities._exchange
    all_want = {"orchestrator": asyncio.Barrier(101), "memory": asyncio.Barrier(101)}

    async def wanted(self: Identities, headers: dict[str, str], audience: str) -> str:
        waits = asyncio.create_task(all_want[audience].wait())
        token = await wants(self, headers, audience)
        await waits
        return token

    async def asked_for_all(self: Identities, headers: dict[str, str], audience: str) -> str:
        await all_want[audience].wait()
        return await asks(self, headers, audience)

    monkeypatch.setattr(Identities, "exchange", wanted)
    monkeypatch.setattr(Identities, "_exchange", asked_for_all)
    in_use: list[int] = []
    monkeypatch.setattr(metrics.CONNECTIONS.labels("PostgreSQL"), "set", in_use.append)
    http = await started(app(database, model_url=url_of(holding), metrics_token="metrics"))
    user = {"X-API-Key": f"vls_good-{uuid.uuid4()}"}
    flood = [
        asyncio.create_task(http.post(SERVE, json=CHAT, headers={**user, "X-Swarm-Memory": "on"})) for _ in range(100)
    ]
    ended: list[httpx.Response] = []
    for one in asyncio.as_completed(flood):
        ended.append(await one)
        if len(ended) == 100 - 32:
            break
    assert {one.status_code for one in ended} == {429}
    assert {one.headers["Retry-After"] for one in ended} == {"1"}
    assert (await http.get("/tasks", headers=other)).status_code == 200
    while len((await http.get("/tasks?limit=100", headers=user)).json()["tasks"]) < 32:
        await asyncio.sleep(0.1)
    assert [path for _, path, _, _ in auth.requests].count("/exchange") == 2  # for each service one
    told = (await http.get("/metrics", headers={"Authorization": "Bearer metrics"})).text
    assert max(in_use) < 10, "who waits for the turn of one user keeps what others need"
    assert counted(told, 'swarm_refused_total{why="tasks"}') >= 100 - 32
    assert 'swarm_unavailable_total{what="The auth service"}' not in told
    for one in flood:
        one.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_others_come_between_the_requests_of_one_user(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str], other: dict[str, str]
) -> None:
    http = await started(app(database))
    for one in (user, other):
        await http.get("/v1/models", headers=one)
    answered: list[str] = []

    async def models(name: str, headers: dict[str, str]) -> None:
        assert (await http.get("/v1/models", headers=headers)).status_code == 200
        answered.append(name)

    await asyncio.gather(*(models("many", user) for _ in range(60)), models("one", other))
    assert answered.index("one") < 30


async def test_who_has_too_many_tasks_and_asks_again_at_once_is_slowed_down(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str],
    holding: Holding, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    """64 at a time wait for their refusal, however long; more are refused at once, so that connections are left."""
    http = await started(app(database, model_url=url_of(holding), tasks_per_user=1))
    first = asyncio.create_task(http.post(SERVE, json=CHAT, headers=user))

    async def at_work() -> bool:
        return holding.there == 1

    await eventually(at_work)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await http.post(SERVE, json=CHAT, headers=user)).status_code == 429
    assert loop.time() - began >= callers.HELD_SECONDS
    monkeypatch.setattr(callers, "HELD_SECONDS", 600)
    many = [asyncio.create_task(http.post(SERVE, json=CHAT, headers=user)) for _ in range(80)]

    async def told() -> bool:
        return sum(one.done() for one in many) == 80 - 64

    await eventually(told)
    assert {one.result().status_code for one in many if one.done()} == {429}
    assert (await http.get("/v1/models", headers=user)).status_code == 200
    assert await told()
    for one in (first, *many):
        one.cancel()
    await asyncio.gather(first, *many, return_exceptions=True)


async def test_a_place_that_is_free_is_given_without_a_look_around(
    app: Callable[..., Any], database: dict[str, Any], started: Start, user: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from orchestrator.places import Places

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Places, "look", never)
    http = await started(app(database))
    async with asyncio.timeout(20):
        assert (await http.post(SERVE, json=CHAT, headers=user)).status_code == 200


def counted(told: str, what: str) -> float:
    """The number of ``what`` among metrics."""
    [line] = [line for line in told.splitlines() if line.startswith(what)]
    return float(line.split()[-1])


@pytest.mark.parametrize(
    "more", [{"n": 2}, {"n_predict": 10**6}, {"best_of": 4}, {"prompt_logprobs": 20}, {"chat_template": "{{ 1 }}"},
             {"max_tokens": 0}, {"min_tokens": 10**6}],
)  # fmt: skip
async def test_what_would_cost_more_than_an_answer_is_not_passed_on(
    http: httpx.AsyncClient, user: dict[str, str], received: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    refused = await http.post(SERVE, json={**CHAT, **more}, headers=user)
    assert (refused.status_code, received) == (400, [])
    assert next(iter(more)) in refused.json()["error"]["message"]


async def test_both_lengths_are_limited(
    http: httpx.AsyncClient, user: dict[str, str], received: list[dict[str, Any]]
) -> None:
    asked = {**CHAT, "max_tokens": 10**6, "max_completion_tokens": 10**6, "n": 1, "top_p": 0.5}
    assert (await http.post(SERVE, json=asked, headers=user)).status_code == 200
    assert {received[0][one] for one in ("max_tokens", "max_completion_tokens")} == {4096}
    assert received[0]["top_p"] == 0.5


async def test_the_server_is_asked_what_it_used_and_it_is_shown_to_who_asks(
    http: httpx.AsyncClient, received: list[dict[str, Any]], database: dict[str, Any], eventually: Any
) -> None:
    said = (await http.post(SERVE, json=CHAT, headers=bearer("x"))).json()
    used = said["usage"]["total_tokens"]
    for options in (None, {"include_usage": False}, {"include_usage": True}):
        user = bearer(f"user-{uuid.uuid4()}")
        asked = {**CHAT, "stream": True, **({"stream_options": options} if options else {})}
        answer = await http.post(SERVE, json=asked, headers=user)
        assert received[-1]["stream_options"]["include_usage"] is True
        assert ('"total_tokens"' in answer.text) == bool(options and options["include_usage"])
        assert answer.text.endswith("data: [DONE]\n\n")

        async def counted(user: dict[str, str] = user) -> bool:
            return await spent(database, user) > 0

        await eventually(counted)
        assert await spent(database, user) == used
    user = bearer(f"user-{uuid.uuid4()}")
    task = (await ask(http, user)).json()
    assert received[-1]["stream_options"] == {"include_usage": True}
    await eventually(counted, user)
    assert await spent(database, user) == len(["what", "now?"]) + len(task["answer"].split())


async def test_what_is_old_goes_in_parts_and_by_an_index(database: dict[str, Any]) -> None:
    from sqlalchemy.event import listen

    from common.postgres import BATCH, Database
    from orchestrator import tasks as module
    from orchestrator.settings import OrchestratorSettings
    from orchestrator.tables import Table

    many, old, gone, other = (uuid.uuid4() for _ in range(4))
    insert = """
        INSERT INTO orchestrator.tasks (id, user_id, state, prompt, model, context, stored, created_at, updated_at,
            deadline, username)
        SELECT gen_random_uuid(), '{}', 'done', 'p', 'm', '[]', false, now() - n * interval '1 second',
            now() - n * interval '1 second' - interval '{} days', now(), 'u' FROM generate_series(1, {}) AS n"""
    for who, days, count in ((many, 0, 3500), (old, 20, 2500), (gone, 0, 2500), (other, 0, 20)):
        await execute(database, insert.format(who, days, count))
    for _ in range(20):
        await execute(database, insert.format(uuid.uuid4(), 1, 1000))
    await execute(database, f"INSERT INTO auth.deleted_users (id) VALUES ('{gone}')")
    await execute(database, "ANALYZE orchestrator.tasks")
    store = Database(OrchestratorSettings(**database), "orchestrator", Table.metadata)
    async with store.running():
        await store.prepare_until_done()
        assert BATCH < 2500
        await module.Tasks(store, 86_400 * 7, 32).forget_old()
        left = [
            await execute(database, f"SELECT count(*) AS count FROM orchestrator.tasks WHERE user_id = '{who}'")
            for who in (many, old, gone, other)
        ]
        assert [int(one.split("=")[1].rstrip(">")) for one in left] == [1000, 0, 0, 20]
        await execute(database, "ANALYZE orchestrator.tasks")
        asked: list[str] = []
        listen(store.engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
        await module.Tasks(store, 86_400 * 7, 32).forget_old()
        assert len(asked) == 4
    for one in asked[1:]:
        plan = await execute(database, f"EXPLAIN {one.replace('$1::FLOAT', '604800').replace('$1', '604800')}")
        assert "Seq Scan on tasks" not in plan, plan
    await execute(database, "TRUNCATE orchestrator.tasks")
