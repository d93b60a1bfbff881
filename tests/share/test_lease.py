"""Leases and the index, on a real Redis: one builds, the dead are replaced, and Redis itself may go away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from doit_images.core.base import commands
from doit_images.share import lease, redis_client
from doit_images.share.index import KnownResult
from doit_images.share.lease import BuildCoordinator
from tests import loopback
from tests.conftest import ROOT
from tests.waiting import comes, patience, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Service]:
    with loopback.redis(tmp_path_factory.mktemp("redis")) as service:
        yield service


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks more often than where it is no test."""
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.05)


def crew(service: loopback.Service, said: list[str] | None = None, **more: float) -> BuildCoordinator:
    return BuildCoordinator(f"redis://127.0.0.1:{service.port}/0", (said if said is not None else []).append, **more)


def test_one_at_a_time_and_the_others_are_told_that_it_was_done(server: loopback.Service) -> None:
    inside: list[int] = []
    most: list[int] = []
    waited: list[bool] = []
    holders: list[str] = []

    def work() -> None:
        with crew(server).acquire("one", holders.append) as late:
            inside.append(1)
            most.append(len(inside))
            waited.append(late)
            comes(lambda: late or len(holders) == 3)  # all others wait
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert sorted(waited) == [False, True, True, True]
    assert set(holders) == {os.uname().nodename}


def test_a_lease_is_renewed_while_its_holder_works(server: loopback.Service) -> None:
    order: list[str] = []
    seconds = patience(0.6)

    def second() -> None:
        with crew(server, lease_seconds=seconds).acquire("long", lambda who: None):
            order.append("second")

    with crew(server, lease_seconds=seconds).acquire("long", lambda who: None):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(2.5 * seconds)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_holder_is_replaced(server: loopback.Service) -> None:
    code = (
        "import sys, time\nfrom doit_images.share.lease import BuildCoordinator\n"
        "with BuildCoordinator(sys.argv[1], print, lease_seconds=1.0).acquire('dead', print):\n"
        "    print('mine', flush=True)\n    time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", code, f"redis://127.0.0.1:{server.port}/0"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with crew(server).acquire("dead", lambda who: None) as late:
        assert late


HOLDERS = "{doit-images}:holders"


def steal(service: loopback.Service, what: str) -> redis.Redis:
    """Another machine has the lease, as after a stop of its holder that was longer than the lease."""
    client = redis.Redis(port=service.port, decode_responses=True)
    client.hset(HOLDERS, what, "another:1:0")
    return client


def test_only_the_holder_renews_and_gives_back(server: loopback.Service) -> None:
    said: list[str] = []
    with crew(server, said, lease_seconds=0.3).acquire("lost", lambda who: None):
        client = steal(server, "lost")
        time.sleep(0.3)
    assert client.hget(HOLDERS, "lost") == "another:1:0"
    assert said == []


def test_a_holder_that_was_stopped_for_too_long_notices_before_it_pushes(server: loopback.Service) -> None:
    """Its renewals sleep as it does: only the question before the push tells."""
    one, other = crew(server, lease_seconds=0.4), crew(server, lease_seconds=30)
    one._renew = lambda *words: None  # type: ignore[method-assign]
    with one.acquire("stopped", lambda who: None):
        assert not one.lost("stopped")
        first = redis.Redis(port=server.port, decode_responses=True).hget(HOLDERS, "stopped")
        with other.acquire("stopped", lambda who: None) as late:
            assert late
            second = redis.Redis(port=server.port, decode_responses=True).hget(HOLDERS, "stopped")
            assert one.lost("stopped")
            assert not other.lost("stopped")
    assert first
    assert second
    assert first != second
    assert not one.lost("stopped"), "who holds nothing has lost nothing"
    assert not one.lost("never asked for")


TAKES, KEEPS, ENDS, RUNS_OUT, SWEEPS = ("takes", "keeps", "ends", "runs out", "sweeps")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([(TAKES, 0), (RUNS_OUT, 0), (TAKES, 1), (ENDS, 1), (KEEPS, 0)])
@example([(TAKES, 0), (RUNS_OUT, 0), (TAKES, 1), (RUNS_OUT, 0), (SWEEPS, 0), (ENDS, 0)])
@given(
    st.lists(
        st.tuples(st.sampled_from([TAKES, KEEPS, ENDS, RUNS_OUT, RUNS_OUT, SWEEPS]), st.integers(0, 1)),
        min_size=5,
        max_size=15,
    )
)
def test_who_was_replaced_is_the_holder_never_again(server: loopback.Service, steps: list[tuple[str, int]]) -> None:
    """Whatever became of whoever took its place: it works on, gave the lease back, or died."""
    client = redis.Redis(port=server.port, decode_responses=True)
    client.flushall()
    machines = [crew(server, lease_seconds=1000) for _ in range(2)]
    held: dict[int, lease.Lease] = {}
    last: lease.Lease | None = None  # the one that was given last
    for step, number in steps:
        mine = held.get(number)
        if step == TAKES:
            taken, _ = machines[number]._taken("what", lambda who: None, 0.0)
            if taken:
                held[number] = last = taken
        elif step in (KEEPS, ENDS) and mine:
            machines[number]._keep(mine, 1000 if step == KEEPS else 0)
            assert mine.lost == (mine is not last), "who was not replaced has it, and nobody else"
            if step == ENDS:
                del held[number]
        elif step == RUNS_OUT and client.zscore(lease._KEYS[0], "what"):
            client.zadd(lease._KEYS[0], {"what": 1})
        elif step == SWEEPS:  # what has run out is swept then
            with crew(server).acquire("another", lambda who: None):
                pass
        assert client.hget(HOLDERS, "what") in {None, *(each.holder for each in [last] if each)}


def gives_back(service: loopback.Service, what: str) -> None:
    redis.Redis(port=service.port).hdel(HOLDERS, what)


def dies(service: loopback.Service, what: str) -> None:
    """It does not renew its lease any more; nobody else wants it."""


def is_killed(service: loopback.Service, what: str) -> None:
    service.kill()


@pytest.mark.parametrize(("then", "again"), [(gives_back, True), (steal, True), (dies, False), (is_killed, True)])
def test_who_may_not_build_for_others_watches_who_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[loopback.Service, str], object], again: bool
) -> None:
    """Until the result may be there, or will not come; with an account that may only read."""
    monkeypatch.setattr(redis_client, "_PAUSES", ())
    said: list[str] = []
    with loopback.redis(tmp_path) as server:
        watcher = BuildCoordinator(loopback.redis_reader(server), said.append, lease_seconds=0.5)
        assert not watcher.watch("x", pytest.fail)
        one = crew(server)
        one._renew = lambda *words: None  # type: ignore[method-assign]
        with one.acquire("x", lambda who: None):
            told: list[str] = []
            happened = threading.Event()

            def waits(who: str) -> None:
                told.append(who)
                if not happened.is_set():
                    happened.set()
                    then(server, "x")

            assert watcher.watch("x", waits) is again
            assert set(told) == {os.uname().nodename}
            assert then in (dies, is_killed) or not watcher.holds("x")
            assert bool(said) == (then is is_killed)


def test_a_lease_that_is_renewed_is_watched_no_longer_than_its_build_may_take(
    server: loopback.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_SLACK_SECONDS", 0.5)
    said: list[str] = []
    with crew(server, lease_seconds=0.2).acquire("slow", lambda who: None):
        watcher = crew(server, said, lease_seconds=30)
        assert not watcher.watch("slow", lambda who: None, 0.1)
        assert not watcher.watch("slow", pytest.fail, 0.1), "and not again"
    assert len(set(said)) == 1


def test_an_account_that_may_see_no_leases_goes_on_with_the_index(server: loopback.Service) -> None:
    """As that of an older Redis of a team."""
    said: list[str] = []
    url = loopback.redis_reader(server, "%R~{doit-images}:made:* -@all +ping +mget +hello +client|setinfo +select")
    crew(server).index.publish({"f": KnownResult("d", 1.0, 1)})
    one = BuildCoordinator(url, said.append)
    for _ in range(2):
        assert not one.watch("x", pytest.fail)
    assert (len(said), len(one.index.lookup(["f"]))) == (1, 1)


def test_a_holder_that_only_renews_is_not_waited_for_for_ever(
    server: loopback.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_SLACK_SECONDS", 0.2)
    said: list[str] = []
    with crew(server).acquire("hangs", lambda who: None):
        waiting = crew(server, said)
        with waiting.acquire("hangs", lambda who: None, expected=0.1) as late:
            assert late
            assert not waiting.lost("hangs"), "it builds without the lease, and may push if nobody else did"
    assert said == [
        f"{os.uname().nodename} takes far longer than expected for an image that is needed: it is built here too"
    ]


def test_leases_do_not_expire_by_themselves_and_leave_nothing(server: loopback.Service) -> None:
    """What Redis may make room with is what expires."""
    client = redis.Redis(port=server.port, decode_responses=True)
    client.flushall()
    with crew(server).acquire("kept", lambda who: None):
        assert {client.ttl(key) for key in lease._KEYS} == {-1}
    for dead in ("dead", "next"):
        steal(server, dead), client.zadd(lease._KEYS[0], {dead: 1}), client.zadd(lease._KEYS[2], {dead: 1})
    with crew(server).acquire("next", lambda who: None):
        assert client.hgetall(HOLDERS).keys() == {"next"}
        assert "dead" not in client.zrange(lease._KEYS[2], 0, -1)
    assert client.exists(*lease._KEYS[:2]) == 0


def test_who_was_stopped_for_longer_than_numbers_are_remembered_has_lost_its_lease(server: loopback.Service) -> None:
    one, client = crew(server), redis.Redis(port=server.port, decode_responses=True)
    with one.acquire("old", lambda who: None):
        one._held["old"].number -= lease._MEMORY
        client.delete(lease._KEYS[2])
        assert not one.lost("old"), "it has it still"
        client.delete(*lease._KEYS)
        assert one.lost("old"), "somebody may have had it since"


def test_a_full_redis_forgets_of_the_index_and_never_a_lease(tmp_path: Path) -> None:
    said: list[str] = []
    full = ["--maxmemory", "4mb", "--maxmemory-policy", "volatile-lru"]  # as docker-compose.cache.yml has it
    with loopback.redis(tmp_path, more=full) as server:
        one = crew(server, said)
        with one.acquire("held", lambda who: None):
            for number in range(20):
                many = range(number * 1000, number * 1000 + 1000)
                one.index.publish({f"{each:064}": KnownResult("sha256:" + "d" * 64, 1.0, each) for each in many})
            client = redis.Redis(port=server.port, decode_responses=True)
            assert client.info("stats")["evicted_keys"] > 1000
            assert (client.hexists(HOLDERS, "held"), one.lost("held")) == (True, False)
            with crew(server, said).acquire("another", lambda who: None) as late:
                assert not late
            assert one.index.lookup([f"{each:064}" for each in range(19_000, 20_000)])
    assert said == []


def test_a_redis_that_stalls_for_a_while_is_waited_for(server: loopback.Service) -> None:
    said: list[str] = []
    one = crew(server, said)
    one.index.publish({"stall": KnownResult("", 1.0, 1)})
    server.process.send_signal(signal.SIGSTOP)
    waking = threading.Timer(2.5, server.process.send_signal, (signal.SIGCONT,))
    waking.start()
    try:
        assert one.index.lookup(["stall"])
    finally:
        waking.join()
    assert (said, one.on) == ([], True)


def test_a_redis_that_is_back_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_client, "_REST_SECONDS", 0.1)
    monkeypatch.setattr(redis_client, "_PAUSES", ())
    said: list[str] = []
    with loopback.redis(tmp_path) as first:
        one = crew(first, said, lease_seconds=0.3)
        with one.acquire("x", lambda who: None):
            first.kill()
            assert one.index.lookup(["f"]) == {}
            with loopback.redis(tmp_path, port=first.port) as second:
                client = redis.Redis(port=second.port, decode_responses=True)
                until(lambda: client.hget(HOLDERS, "x"), "its holder tells it who holds the lease")
                assert not one.lost("x")
    assert len(said) == 1


def test_a_redis_that_stays_away_is_looked_for_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    now = [0.0]
    monkeypatch.setattr(redis_client, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(redis_client, "client_of", lambda url: tried.append(now[0]) or fails())
    monkeypatch.setattr(redis_client, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))

    def fails() -> object:
        raise redis.ConnectionError

    said: list[str] = []
    store = redis_client.RedisClient("redis://127.0.0.1:1/0", said.append)
    while now[0] < 900:
        store.do(lambda client: None)
        now[0] += 1
    assert tried == [0, 0, 0, 15, 45, 105, 225, 465, 705]
    assert len(said) == 1


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_sentinel_and_cluster_by_url(tmp_path: Path, kind: str) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        more = ["--cluster-enabled", "yes", "--cluster-port", str(loopback.free_port())] if kind == "cluster" else []
        one = stack.enter_context(loopback.redis(tmp_path / "data", more=more))
        client = redis.Redis(port=one.port, decode_responses=True)
        url = f"redis+cluster://127.0.0.1:{one.port}"
        if kind == "cluster":
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            until(lambda: client.cluster("INFO")["cluster_state"] == "ok")
        else:
            watcher = stack.enter_context(loopback.sentinel(tmp_path / "sentinel", one.port))
            url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watcher.port}/swarm/0"
        crew = BuildCoordinator(url, said.append)
        with crew.acquire("x", said.append) as late:
            assert (late, crew.lost("x"), bool(client.hget(HOLDERS, "x"))) == (False, False, True)
        crew.index.publish({"f": KnownResult("d", 1.0, 1), "g": KnownResult("d", 1.0, 1)})
        assert len(crew.index.lookup(["f", "g"])) == 2
    assert said == []


def test_who_waits_can_be_stopped(server: loopback.Service, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(commands, "stopping", stop.is_set)
    with crew(server).acquire("held", lambda who: None):
        with crew(server).acquire("held", lambda who: stop.set()) as late:
            assert late
        assert crew(server)._store.do(lambda redis: redis.hget(HOLDERS, "held"))


def test_the_index_answers_in_one_round_trip(server: loopback.Service) -> None:
    told = {"f1": KnownResult("sha256:d", 12.5, 1000), "f2": KnownResult("", 3.0, 10)}
    crew(server).index.publish(told)
    other = crew(server)
    before = other._store.do(lambda redis: redis.info("stats"))["total_commands_processed"]
    assert other.index.lookup(["f1", "nothing", "f2"]) == told
    after = other._store.do(lambda redis: redis.info("stats"))["total_commands_processed"]
    assert after - before == 2  # the question, and this one


def test_the_index_forgets_what_nobody_builds_again(server: loopback.Service) -> None:
    crew(server).index.publish({"old": KnownResult("", 1.0, 1)})
    left = crew(server)._store.do(lambda redis: redis.ttl("{doit-images}:made:old"))
    assert 0 < left <= 90 * 86400


def test_what_another_program_wrote_is_passed_over(server: loopback.Service) -> None:
    crew(server)._store.do(lambda redis: redis.set("{doit-images}:made:odd", "{not json"))
    crew(server)._store.do(lambda redis: redis.set("{doit-images}:made:other", '{"digest": 1, "more": 2}'))
    assert crew(server).index.lookup(["odd", "other"]) == {}


def test_nobody_else_is_nobody_to_wait_for() -> None:
    said: list[str] = []
    with BuildCoordinator("", said.append).acquire("x", said.append) as late:
        assert not late
    assert BuildCoordinator("", said.append).index.lookup(["x"]) == {}
    assert said == []


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis://:HUSH@127.0.0.1:1/0", "redis://:HUSH@127.0.0.1:port/0"]
)
def test_a_redis_that_is_not_there_is_said_once_without_the_password(url: str) -> None:
    said: list[str] = []
    one = BuildCoordinator(url, said.append)
    for _ in range(2):
        with one.acquire("x", said.append) as late:
            assert not late
    one.index.publish({"f": KnownResult("", 1.0, 1)})
    assert len(said) == 1
    assert "Redis is left out" in said[0]
    assert "HUSH" not in said[0]
    assert not one.on


def test_a_wrong_password_is_said_without_any(tmp_path: Path) -> None:
    said: list[str] = []
    with loopback.redis(tmp_path, password="right") as server:
        good = BuildCoordinator(f"redis://:right@127.0.0.1:{server.port}/0", said.append)
        good.index.publish({"f": KnownResult("", 1.0, 1)})
        assert good.index.lookup(["f"])
        bad = BuildCoordinator(f"redis://:HUSH@127.0.0.1:{server.port}/0", said.append)
        assert bad.index.lookup(["f"]) == {}
    assert said == ["Redis is left out (it refuses the password in REDIS_URL): another machine may do the same work"]


def test_a_redis_that_dies_while_a_lease_is_held_stops_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    with loopback.redis(tmp_path) as server:
        one = crew(server, said, lease_seconds=0.3)
        with one.acquire("x", lambda who: None):
            server.kill()
            until(lambda: said)
    assert len(said) == 1
    assert "no connection" in said[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (redis.AuthenticationError(), "it refuses the password in REDIS_URL"),
        (redis.exceptions.NoPermissionError(), "it refuses the password in REDIS_URL"),
        (redis.TimeoutError(), "it does not answer in time"),
        (TimeoutError(), "it does not answer in time"),
        (redis.ConnectionError(), "no connection"),
        (OSError(), "no connection"),
        (ValueError(), "REDIS_URL is not understood"),
        (redis.ResponseError(), "it refuses the command"),
    ],
)
def test_what_is_wrong_with_redis_is_said_without_its_own_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    heard: list[str] = []

    def fails(client: object) -> None:
        raise error

    monkeypatch.setattr(redis_client, "_PAUSES", ())
    one = BuildCoordinator("redis://:HUSH@127.0.0.1:1/0", heard.append)
    assert one._store.do(fails) is None
    assert heard == [f"Redis is left out ({said}): another machine may do the same work"]
    assert one._store.do(lambda client: "answered") is None


def test_a_redis_that_hangs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_client, "_SOCKET_SECONDS", 0.3)
    monkeypatch.setattr(redis_client, "_PAUSES", ())
    said: list[str] = []
    relay = loopback.Relay(1)
    relay.silent = True
    try:
        assert BuildCoordinator(f"redis://127.0.0.1:{relay.port}/0", said.append).index.lookup(["f"]) == {}
    finally:
        relay.close()
    assert len(said) == 1
    assert "not answer in time" in said[0] or "no connection" in said[0]
