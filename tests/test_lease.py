"""Leases and the index, on a real Redis: one builds, the dead are replaced, and Redis itself may go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks.sharing import lease
from tasks.sharing.lease import BuildCoordinator, Made
from tests import loopback

ROOT = Path(__file__).resolve().parent.parent


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


def never() -> bool:
    return False


def test_one_at_a_time_and_the_others_are_told_that_it_was_done(server: loopback.Service) -> None:
    inside: list[int] = []
    most: list[int] = []
    waited: list[bool] = []
    holders: list[str] = []

    def work() -> None:
        with crew(server).acquire("one", holders.append, never) as late:
            inside.append(1)
            most.append(len(inside))
            waited.append(late)
            time.sleep(0.1)
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

    def second() -> None:
        with crew(server, lease_seconds=0.6).acquire("long", lambda who: None, never):
            order.append("second")

    with crew(server, lease_seconds=0.6).acquire("long", lambda who: None, never):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_holder_is_replaced(server: loopback.Service) -> None:
    code = (
        "import sys, time\nfrom tasks.sharing.lease import BuildCoordinator\n"
        "with BuildCoordinator(sys.argv[1], print, lease_seconds=1.0).acquire('dead', print, lambda: False):\n"
        "    print('mine', flush=True)\n    time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", code, f"redis://127.0.0.1:{server.port}/0"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with crew(server).acquire("dead", lambda who: None, never) as late:
        assert late


def test_only_the_holder_gives_back(server: loopback.Service) -> None:
    client = redis.Redis(port=server.port, decode_responses=True)
    with crew(server).acquire("stolen", lambda who: None, never):
        client.set("vllm-swarm:lease:stolen", "another")
    assert client.get("vllm-swarm:lease:stolen") == "another"


def test_only_the_holder_renews(server: loopback.Service) -> None:
    said: list[str] = []
    client = redis.Redis(port=server.port, decode_responses=True)
    with crew(server, said, lease_seconds=0.3).acquire("lost", lambda who: None, never):
        client.set("vllm-swarm:lease:lost", "another", px=60_000)
        time.sleep(0.3)
        assert client.pttl("vllm-swarm:lease:lost") > 50_000
    assert said == []


def test_who_waits_can_be_stopped(server: loopback.Service) -> None:
    stop = threading.Event()
    with crew(server).acquire("held", lambda who: None, never):
        with crew(server).acquire("held", lambda who: stop.set(), stop.is_set) as late:
            assert late
        assert crew(server)._do(lambda redis: redis.get("vllm-swarm:lease:held"))


def test_the_index_answers_in_one_round_trip(server: loopback.Service) -> None:
    told = {"f1": Made("sha256:d", 12.5, 1000), "f2": Made("", 3.0, 10)}
    crew(server).publish(told)
    other = crew(server)
    before = other._do(lambda redis: redis.info("stats"))["total_commands_processed"]
    assert other.lookup(["f1", "nothing", "f2"]) == told
    after = other._do(lambda redis: redis.info("stats"))["total_commands_processed"]
    assert after - before == 2  # the question, and this one


def test_the_index_forgets_what_nobody_builds_again(server: loopback.Service) -> None:
    crew(server).publish({"old": Made("", 1.0, 1)})
    left = crew(server)._do(lambda redis: redis.ttl("vllm-swarm:made:old"))
    assert 0 < left <= 90 * 86400


def test_what_another_program_wrote_is_passed_over(server: loopback.Service) -> None:
    crew(server)._do(lambda redis: redis.set("vllm-swarm:made:odd", "{not json"))
    crew(server)._do(lambda redis: redis.set("vllm-swarm:made:other", '{"digest": 1, "more": 2}'))
    assert crew(server).lookup(["odd", "other"]) == {}


def test_nobody_else_is_nobody_to_wait_for() -> None:
    said: list[str] = []
    with BuildCoordinator("", said.append).acquire("x", said.append, never) as late:
        assert not late
    assert BuildCoordinator("", said.append).lookup(["x"]) == {}
    assert said == []


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis://:HUSH@127.0.0.1:1/0", "redis://:HUSH@127.0.0.1:port/0"]
)
def test_a_redis_that_is_not_there_is_said_once_without_the_password(url: str) -> None:
    said: list[str] = []
    one = BuildCoordinator(url, said.append)
    for _ in range(2):
        with one.acquire("x", said.append, never) as late:
            assert not late
    one.publish({"f": Made("", 1.0, 1)})
    assert len(said) == 1
    assert "Redis is left out" in said[0]
    assert "HUSH" not in said[0]
    assert not one.on


def test_a_wrong_password_is_said_without_any(tmp_path: Path) -> None:
    said: list[str] = []
    with loopback.redis(tmp_path, password="right") as server:
        good = BuildCoordinator(f"redis://:right@127.0.0.1:{server.port}/0", said.append)
        good.publish({"f": Made("", 1.0, 1)})
        assert good.lookup(["f"])
        bad = BuildCoordinator(f"redis://:HUSH@127.0.0.1:{server.port}/0", said.append)
        assert bad.lookup(["f"]) == {}
    assert said == ["Redis is left out (it refuses the password in REDIS_URL): another machine may do the same work"]


def test_a_redis_that_dies_while_a_lease_is_held_stops_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    with loopback.redis(tmp_path) as server:
        one = crew(server, said, lease_seconds=0.3)
        with one.acquire("x", lambda who: None, never):
            server.kill()
            time.sleep(0.5)
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
def test_what_is_wrong_with_redis_is_said_without_its_own_words(error: Exception, said: str) -> None:
    heard: list[str] = []

    def fails(client: object) -> None:
        raise error

    one = BuildCoordinator("redis://:HUSH@127.0.0.1:1/0", heard.append)
    assert one._do(fails) is None
    assert heard == [f"Redis is left out ({said}): another machine may do the same work"]
    assert one._do(lambda client: "answered") is None


def test_a_redis_that_hangs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_SOCKET_SECONDS", 0.3)
    said: list[str] = []
    relay = loopback.Relay(1)
    relay.silent = True
    try:
        assert BuildCoordinator(f"redis://127.0.0.1:{relay.port}/0", said.append).lookup(["f"]) == {}
    finally:
        relay.close()
    assert len(said) == 1
    assert "not answer in time" in said[0] or "no connection" in said[0]
