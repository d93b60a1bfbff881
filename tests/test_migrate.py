"""From a standard deployment to the optimized one and back, on the real engine, with data in place."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tasks.base.errors import UserError
from tasks.compose import secrets
from tasks.compose.stack import Service
from tasks.engine.containers import Container, Containers, Event
from tasks.stack.ephemeral_stack import free_port
from tasks.stack.migrate import Before, Change, Journal, Phase, changes_between, downtime, held_tag
from tests.conftest import ROOT, Lab, docker
from tests.test_stack import Stack, wait_until

COMPOSE = """
    name: PREFIX
    x-small: &small {{init: true, stop_grace_period: 1s, restart: unless-stopped, tmpfs: [/tmp]}}
    services:
      store:
        <<: *small
        image: PREFIX/store:{kind}
        build: {{context: ., dockerfile: {kind}.Dockerfile}}
        volumes: ["data:/data"]
      web:
        <<: *small
        image: PREFIX/web:{kind}
        build: {{context: ., dockerfile: {kind}.Dockerfile}}
        volumes: ["pages:/pages"]
        depends_on: {{store: {{condition: service_healthy}}}}
        networks: [{kind}]
    networks: {{{kind}: {{}}}}
    volumes: {{data: {{}}, pages: {{}}}}
    """
DOCKERFILE = """
    FROM tst-busybox:1
    HEALTHCHECK --interval=1s --start-interval=100ms --start-period=10s --retries=2 CMD test -e /tmp/well
    CMD ["sh", "-c", "echo I am {kind}; touch /tmp/well; exec sleep 1000"]
    """
FILES = {
    "docker-compose.yml": COMPOSE.format(kind="standard"),
    "compose.yml": COMPOSE.format(kind="optimized"),
    "standard.Dockerfile": DOCKERFILE.format(kind="standard"),
    "optimized.Dockerfile": DOCKERFILE.format(kind="optimized"),
}


@pytest.fixture
def standard(busybox: str, tmp_path: Path) -> Iterator[Stack]:
    """A standard deployment that runs and holds data."""
    one = Stack(tmp_path)
    one.write(FILES)
    done = one.doit("up_optimized", COMPOSE_FILE=str(tmp_path / "docker-compose.yml"))
    assert done.returncode == 0, done.stderr
    docker("exec", one.ids()["store"], "sh", "-c", "echo precious >/data/file")
    docker("exec", one.ids()["web"], "sh", "-c", "echo page >/pages/file")
    yield one
    one.close()


def kinds(stack: Stack) -> dict[str, str]:
    return {name: one["Config"]["Image"].rpartition(":")[2] for name, one in stack.containers().items()}


def images(stack: Stack) -> dict[str, str]:
    return {name: one["Image"] for name, one in stack.containers().items()}


def networks(stack: Stack) -> list[str]:
    label = f"label=com.docker.compose.project={stack.prefix}"
    return sorted(docker("network", "ls", "--filter", label, "--format", "{{.Name}}").stdout.split())


def data(stack: Stack) -> tuple[str, str]:
    ids = stack.ids()
    return (
        docker("exec", ids["store"], "cat", "/data/file").stdout,
        docker("exec", ids["web"], "cat", "/pages/file").stdout,
    )


def left_over(stack: Stack) -> list[str]:
    return [name for name in stack.images() if name.endswith(":before-migration")]


@pytest.mark.engine
def test_a_dry_run_shows_the_plan_and_changes_nothing(standard: Stack) -> None:
    before = standard.ids()
    done = standard.doit("migrate_to_optimized", "--dry-run")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["store", f"{standard.prefix}/store:standard", f"{standard.prefix}/store:optimized",
            f"{standard.prefix}_data"] in rows  # fmt: skip
    assert "1. build store (never built here), web (never built here)" in done.stdout
    assert standard.ids() == before
    assert not any(name.endswith(":optimized") for name in standard.images())
    assert not (standard.folder / ".build/compose.yml/migration.json").exists()

    refused = standard.doit("migrate_to_optimized")
    assert (refused.returncode != 0, "--yes" in refused.stderr) == (True, True)
    assert standard.ids() == before


@pytest.mark.engine
def test_it_builds_switches_and_keeps_the_data(standard: Stack) -> None:
    assert kinds(standard) == {"store": "standard", "web": "standard"}
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode == 0, done.stderr
    assert kinds(standard) == {"store": "optimized", "web": "optimized"}
    assert data(standard) == ("precious\n", "page\n")
    assert re.search(r"migrated: downtime [0-9.]+ s in all, store [0-9.]+ s, web [0-9.]+ s", done.stderr)
    assert networks(standard) == [f"{standard.prefix}_default", f"{standard.prefix}_optimized"]
    assert left_over(standard) == []
    assert not (standard.folder / ".build/compose.yml/migration.json").exists()

    again = standard.doit("migrate_to_optimized", "--yes")
    assert (again.returncode, "is the optimized deployment already" in again.stderr) == (0, True)


@pytest.mark.engine
def test_a_build_that_fails_stops_nothing(standard: Stack) -> None:
    before = standard.ids()
    standard.write({"optimized.Dockerfile": "FROM tst-busybox:1\nRUN exit 3\n"})
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "nothing was stopped" in done.stderr
    assert standard.ids() == before
    assert {one["State"]["Health"]["Status"] for one in standard.containers().values()} == {"healthy"}


BROKEN = {
    "ends at once": 'CMD ["sh", "-c", "echo I am broken; exit 3"]',
    "is never healthy": 'CMD ["sh", "-c", "echo I am broken; exec sleep 1000"]',
    "cannot be started": 'CMD ["/nowhere"]',
}


@pytest.mark.engine
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_new_image_is_rolled_back(standard: Stack, how: str) -> None:
    before = images(standard)
    health = "HEALTHCHECK --interval=300ms --start-interval=100ms --start-period=1s --retries=2 CMD test -e /tmp/well"
    standard.write({"optimized.Dockerfile": f"FROM tst-busybox:1\n{health}\n{BROKEN[how]}\n"})
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "rolled back, the standard deployment runs again on the same volumes (downtime " in done.stderr
    if how != "cannot be started":
        assert "    I am broken" in done.stderr
    assert images(standard) == before
    assert kinds(standard) == {"store": "standard", "web": "standard"}
    assert {one["State"]["Health"]["Status"] for one in standard.containers().values()} == {"healthy"}
    assert data(standard) == ("precious\n", "page\n")
    assert left_over(standard) == []

    standard.write({"optimized.Dockerfile": FILES["optimized.Dockerfile"]})
    assert standard.doit("migrate_to_optimized", "--yes").returncode == 0
    assert kinds(standard) == {"store": "optimized", "web": "optimized"}
    assert data(standard) == ("precious\n", "page\n")


@pytest.mark.engine
def test_the_way_back_leads_to_what_ran_even_if_its_name_moved_on(standard: Stack) -> None:
    before = images(standard)
    docker("tag", "tst-busybox:1", f"{standard.prefix}/web:standard")
    standard.write({"optimized.Dockerfile": f"FROM tst-busybox:1\n{BROKEN['ends at once']}\n"})
    done = standard.doit("migrate_to_optimized", "--yes")
    assert "rolled back" in done.stderr
    assert images(standard) == before
    assert data(standard) == ("precious\n", "page\n")


@pytest.mark.engine
def test_data_that_would_be_left_behind(standard: Stack) -> None:
    standard.write({"compose.yml": FILES["compose.yml"].replace("pages:/pages", "other:/pages").replace(
        "pages: {}", "other: {}")})  # fmt: skip
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert f"web keeps data in the volume {standard.prefix}_pages" in done.stderr
    assert kinds(standard) == {"store": "standard", "web": "standard"}


@pytest.mark.engine
def test_nothing_runs(standard: Stack) -> None:
    docker("compose", "--project-name", standard.prefix, "down", "--timeout", "0")
    done = standard.doit("migrate_to_optimized", "--yes")
    assert (done.returncode != 0, "nothing of" in done.stderr) == (True, True)


@pytest.mark.engine
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_the_next_run_goes_on(standard: Stack, seed: int) -> None:
    # Built before, so that the moment falls into the switch.
    assert standard.doit("build_optimized").returncode == 0
    journal = standard.folder / ".build/compose.yml/migration.json"
    running = standard.start("migrate_to_optimized", "--yes")
    wait_until("it switches", lambda: journal.exists() or running.poll() is not None)
    time.sleep(random.Random(seed).uniform(0, 2.5))
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode == 0, done.stderr
    assert kinds(standard) == {"store": "optimized", "web": "optimized"}
    assert (
        len(docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={standard.prefix}").stdout.split()) == 2
    )
    assert data(standard) == ("precious\n", "page\n")
    assert left_over(standard) == []
    assert not journal.exists()


@pytest.mark.engine
def test_killed_while_rolling_back_the_next_run_finishes_that(standard: Stack) -> None:
    before = images(standard)
    standard.write({"optimized.Dockerfile": f"FROM tst-busybox:1\n{BROKEN['ends at once']}\n"})
    journal = standard.folder / ".build/compose.yml/migration.json"
    running = standard.start("migrate_to_optimized", "--yes")

    def rolling() -> bool:
        return journal.exists() and json.loads(journal.read_text())["phase"] == "rolling back"

    wait_until("it rolls back", rolling)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "interrupted while rolling back" in done.stderr
    assert "rolled back" in done.stderr
    assert images(standard) == before
    assert data(standard) == ("precious\n", "page\n")
    assert not journal.exists()


# ---- the real deployments


class Deployment(Lab):
    """This repository's own stack under a name, on ports and with secrets of its own."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__(ROOT)
        names = ("AUTH_PORT", "MEMORY_PORT", "ORCHESTRATOR_PORT")
        self.environ = {
            **secrets.random_values(ROOT),
            **{name: str(port) for name, port in zip(names, ports, strict=True)},
            "COMPOSE_PROJECT_NAME": self.prefix,
            "COMPOSE_FILE": str(ROOT / "docker-compose.optimized.yml"),
        }
        self.auth, self.memory = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"

    def kinds(self) -> set[str]:
        containers = Containers(self.prefix).look()
        serving = [each for each in containers if each.always]  # what makes the tables ends
        assert [each.health for each in serving] == ["healthy"] * 5, containers
        return {each.image.rpartition(":")[2] for each in containers}

    def close(self) -> None:
        Containers(self.prefix).remove()


@pytest.fixture
def deployment(engine: None) -> Iterator[Deployment]:
    with ExitStack() as stack:
        one = Deployment([stack.enter_context(free_port()) for _ in range(3)])
        stack.callback(one.close)
        yield one


@pytest.mark.stack
def test_users_and_memories_survive_the_way_there_and_back(deployment: Deployment) -> None:
    standard = str(ROOT / "docker-compose.yml")
    done = deployment.doit("up_optimized", COMPOSE_FILE=standard)
    assert done.returncode == 0, done.stderr
    assert deployment.kinds() == {"standard"}

    user = {"username": "before", "password": "a-password-of-before"}
    text = "The spare key is under the blue flowerpot."
    with httpx.Client(timeout=30, trust_env=False) as client:

        def token() -> dict[str, str]:
            answer = client.post(f"{deployment.auth}/token", data=user).raise_for_status()
            return {"Authorization": f"Bearer {answer.json()['access_token']}"}

        client.post(f"{deployment.auth}/users", json=user).raise_for_status()
        made = client.post(f"{deployment.auth}/api-keys", json={"name": "kept"}, headers=token()).raise_for_status()
        key = {"X-API-Key": made.json()["key"]}
        kept = client.post(f"{deployment.memory}/memories", json={"text": text}, headers=key).raise_for_status()
        said = {"messages": [{"role": "user", "content": "hello"}]}
        client.post(f"{deployment.memory}/sessions/s/messages", json=said, headers=key).raise_for_status()

        def all_is_there() -> None:
            found = client.post(f"{deployment.memory}/search", json={"query": "Where is the key?"}, headers=key)
            assert [one["id"] for one in found.raise_for_status().json()["results"]] == [kept.json()["id"]]
            session = client.get(f"{deployment.memory}/sessions/s/messages", headers=key).raise_for_status()
            assert session.json()["messages"] == said["messages"]
            assert client.post(f"{deployment.auth}/verify", headers=token()).status_code == 200

        # Far too little memory, which only the optimized deployment limits: its services are killed as they start.
        failed = deployment.doit("migrate_to_optimized", "--yes", SERVICE_MEMORY="6m")
        assert failed.returncode != 0
        assert "rolled back" in failed.stderr, failed.stderr
        assert "optimized" not in deployment.kinds()
        all_is_there()

        done = deployment.doit("migrate_to_optimized", "--yes")
        assert done.returncode == 0, done.stderr
        assert "migrated: downtime " in done.stderr
        assert deployment.kinds() == {"optimized"}
        all_is_there()
    for value in (deployment.environ[name] for name in secrets.wanted(ROOT)):
        assert value not in failed.stdout + failed.stderr + done.stdout + done.stderr


# ---- the pure parts


def container(service: str, image: str, volumes: dict[str, str] | None = None, state: str = "running") -> Container:
    return Container("id", f"p-{service}-1", service, image, "sha256:1", state, volumes=volumes or {})


def service(name: str, image: str, volumes: dict[str, str] | None = None) -> Service:
    return Service(name, image, True, 1, volumes or {})


def test_what_changes() -> None:
    keeps = {"/data": "p_data"}
    running = [container("store", "store:standard", keeps), container("web", "web:standard"), container("gpu", "gpu:1")]
    standard = {one.service: service(one.service, one.image, dict(one.volumes)) for one in running}
    optimized = {
        "store": service("store", "store:optimized", {"/elsewhere": "p_data"}),
        "web": service("web", "web:optimized"),
        "gpu": service("gpu", "gpu:1"),
    }
    assert changes_between(running, standard, optimized) == [
        Change("store", "store:standard", "store:optimized", ("p_data",)),
        Change("web", "web:standard", "web:optimized", ()),
    ]
    assert changes_between([container("web", "web:optimized")], standard, optimized) == []
    assert changes_between([container("other", "other:1")], standard, optimized) == []
    assert changes_between([container("web", "web:standard", state="exited")], standard, optimized) == []
    with pytest.raises(UserError, match="keeps data in the volume p_data"):
        changes_between(running, standard, {"store": service("store", "store:optimized")})


def test_downtime_is_read_from_what_happened() -> None:
    events = [
        Event("store", "die", 10.0),
        Event("web", "die", 11.0),
        Event("store", "start", 12.0),
        Event("store", "health_status: healthy", 13.5),
        Event("web", "start", 14.0),
        Event("web", "health_status: healthy", 16.0),
        Event("web", "exec_die", 17.0),
    ]
    assert downtime(events) == {"store": 3.5, "web": 5.0, "": 6.0}
    assert downtime(list(reversed(events))) == downtime(events)
    assert downtime([]) == {}
    # Tried, failed, and put back: away until what ran before was well again.
    failed = [*events[:3], Event("store", "die", 13.0), Event("store", "start", 14.0),
              Event("store", "health_status: healthy", 15.0)]  # fmt: skip
    assert downtime(failed)["store"] == 5.0
    # Nothing checks its health: it is well when it has started.
    assert downtime([Event("web", "die", 1.0), Event("web", "start", 3.0)]) == {"web": 2.0, "": 2.0}


@pytest.mark.parametrize(
    ("image", "held"),
    [
        ("vllm-swarm/auth:standard", "vllm-swarm/auth:before-migration"),
        ("auth", "auth:before-migration"),
        ("registry:5000/team/auth", "registry:5000/team/auth:before-migration"),
        ("registry:5000/auth:1@sha256:00", "registry:5000/auth:before-migration"),
    ],
)
def test_what_ran_is_held_by_a_tag_of_its_own(image: str, held: str) -> None:
    assert held_tag(image) == held


def test_the_journal_is_kept_whole(tmp_path: Path) -> None:
    from tasks.stack.migrate import read_journal, write_journal

    assert read_journal(tmp_path) is None
    journal = Journal(Phase.SWITCHING, {"web": Before("web:standard", "sha256:1")})
    write_journal(tmp_path, journal)
    assert read_journal(tmp_path) == journal
