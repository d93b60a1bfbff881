"""From a standard deployment to the optimized one and back, on the real engine, with data in place."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Service
from doit_images.stack import secrets
from doit_images.stack.backup import MANIFEST
from doit_images.stack.containers import Container, Containers, Event
from doit_images.stack.ephemeral_stack import free_port
from tasks import journal, migrate
from tasks.compared import DataPart, differences, parts
from tasks.journal import Before, Journal, Phase, held_tag
from tasks.migrate import Found, Replacement, changes_between, downtime, found
from tests import forked
from tests.conftest import ROOT, Lab, docker
from tests.stack.test_stack import Stack
from tests.tasks.test_images import DEPLOYED

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
    HEALTHCHECK --interval=10s --start-interval=200ms --start-period=10s --retries=2 CMD test -e /tmp/well
    CMD ["sh", "-c", "echo I am {kind}; touch /tmp/well; exec sleep 1000"]
    """
FILES = {
    "docker-compose.yml": COMPOSE.format(kind="standard"),
    "compose.yml": COMPOSE.format(kind="optimized"),
    "standard.Dockerfile": DOCKERFILE.format(kind="standard"),
    "optimized.Dockerfile": DOCKERFILE.format(kind="optimized"),
}

BACKUP = """
    case $1 in
        save) cat /data/file ;;
        load) cat >/data/new && mv /data/new /data/file ;;
        version) echo 1 ;;
        data) echo file 1 $(sha256sum </data/file | cut -c 1-20) ;;
    esac
    """
WITH_BACKUP = {
    "compose.yml": FILES["compose.yml"].rstrip() + "\n    x-backup: {store: {script: backup.sh}}\n",
    "backup.sh": BACKUP,
}


@pytest.fixture(scope="module")
def deployed(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A small project of two deployments."""
    one = Stack(tmp_path_factory.mktemp("migrate"))
    yield one
    one.close()


@pytest.fixture
def standard(deployed: Stack) -> Stack:
    """Its standard deployment, which runs and holds data: brought back where another test has moved it."""
    deployed.write(FILES)
    shutil.rmtree(deployed.folder / ".doit-images/backups", ignore_errors=True)
    wanted = {name: deployed.image_id(f"{deployed.prefix}/{name}:standard") for name in ("store", "web")}
    if images(deployed) != wanted or journal_of(deployed).exists():
        done = deployed.doit("up_optimized", COMPOSE_FILE=str(deployed.folder / "docker-compose.yml"))
        assert done.returncode == 0, done.stderr
    docker("exec", deployed.ids()["store"], "sh", "-c", "echo precious >/data/file")
    docker("exec", deployed.ids()["web"], "sh", "-c", "echo page >/pages/file")
    return deployed


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
    assert not journal_of(standard).exists()

    refused = standard.doit("migrate_to_optimized")
    assert (refused.returncode != 0, "--yes" in refused.stderr) == (True, True)
    assert standard.ids() == before


@pytest.mark.engine
def test_a_build_that_fails_stops_nothing(standard: Stack) -> None:
    before = standard.ids()
    standard.write({"optimized.Dockerfile": "FROM tst-busybox:1\nRUN exit 3\n"})
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "nothing was stopped" in done.stderr
    assert standard.ids() == before
    assert {one["State"]["Health"]["Status"] for one in standard.containers().values()} == {"healthy"}


@pytest.mark.engine
def test_data_that_would_be_left_behind(standard: Stack) -> None:
    standard.write({"compose.yml": FILES["compose.yml"].replace("pages:/pages", "other:/pages").replace(
        "pages: {}", "other: {}")})  # fmt: skip
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert f"web keeps data in the volume {standard.prefix}_pages" in done.stderr
    assert kinds(standard) == {"store": "standard", "web": "standard"}


BROKEN = {
    "ends at once": 'CMD ["sh", "-c", "echo I am broken; exit 3"]',
    "is never healthy": 'CMD ["sh", "-c", "echo I am broken; exec sleep 1000"]',
    "cannot be started": 'CMD ["/nowhere"]',
}


@pytest.mark.engine
@pytest.mark.parametrize(
    "how", ["ends at once", "cannot be started", pytest.param("is never healthy", marks=pytest.mark.all)]
)
def test_a_broken_new_image_is_rolled_back(standard: Stack, how: str) -> None:
    """To what ran, even if a name of it is another image's by now."""
    before = images(standard)
    if moved := how == "ends at once":
        docker("tag", "tst-busybox:1", f"{standard.prefix}/web:standard")
    health = "HEALTHCHECK --interval=300ms --start-interval=100ms --start-period=1s --retries=2 CMD test -e /tmp/well"
    standard.write({"optimized.Dockerfile": f"FROM tst-busybox:1\n{health}\n{BROKEN[how]}\n"})
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "rolled back, the standard deployment runs again on the same volumes (downtime " in done.stderr
    if how != "cannot be started":
        assert "    I am broken" in done.stderr
    assert images(standard) == before
    assert {one["State"]["Health"]["Status"] for one in standard.containers().values()} == {"healthy"}
    assert data(standard) == ("precious\n", "page\n")
    assert left_over(standard) == [f"{standard.prefix}/web:before-migration"] * moved  # no other name leads there
    docker("tag", before["web"], f"{standard.prefix}/web:standard")


@pytest.mark.engine
def test_what_the_stores_hold_is_saved_and_compared(standard: Stack) -> None:
    standard.write({**WITH_BACKUP, "optimized.Dockerfile": FILES["optimized.Dockerfile"].replace(
        "touch /tmp/well", "test ! -e /data/file || echo worse >/data/file; touch /tmp/well")})  # fmt: skip
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "the data of store is not what it was: file is another" in done.stderr
    assert "rolled back" in done.stderr
    assert kinds(standard) == {"store": "standard", "web": "standard"}
    [archive] = (standard.folder / f".doit-images/backups/{standard.prefix}").iterdir()
    assert f"what they held before is in {archive}" in done.stderr
    assert (archive / "store.data").read_text() == "precious\n"


STEPWISE = """
import os, runpy, signal, sys
from doit_images.core.engine import client
from doit_images.stack import backup, bringup
from tasks import journal

where, what = os.environ["AT"].split()
where, _, phase = where.partition(":")
owner, name = {
    "begun": (journal, "begun"), "held": (journal, "hold"), "stopped": (backup, "stop"), "saved": (backup, "save"),
    "entered": (journal, "entered"), "created": (bringup._Work, "_create"), "started": (bringup, "start"),
    "untagged": (client.Engine, "untag"), "closing": (journal, "close"),
}[where]
original = getattr(owner, name)

def step(*args, **options):
    done = original(*args, **options)
    if phase and args[2] != phase:
        return done
    if what == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, original)
    raise ValueError("something odd")

setattr(owner, name, step)
sys.argv[0] = "doit"
runpy.run_module("doit", run_name="__main__", alter_sys=True)
"""


def stopped_at(stack: Stack, at: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A migration that is killed after a step, or in which that fails when it is done."""
    argv = [sys.executable, "-c", STEPWISE, "migrate_to_optimized", "--yes", *args]
    done = forked.run(argv, stack.env(AT=at))
    assert done.returncode == (1 if at.endswith("raises") else -signal.SIGKILL), (at, done.stderr)
    return done


def journal_of(stack: Stack) -> Path:
    return stack.folder / f".doit-images/{stack.prefix}.migration.json"


@pytest.mark.engine
def test_killed_half_way_it_can_be_undone_whenever_that_is_killed(standard: Stack) -> None:
    before = images(standard)
    assert standard.doit("build_optimized").returncode == 0
    odd = stopped_at(standard, "started raises")  # by an error that is none of ours
    assert "ValueError: something odd" in odd.stderr
    assert "rolled back" in odd.stderr
    assert images(standard) == before

    stopped_at(standard, "created after")
    asked = standard.doit("migrate_to_optimized")
    assert "a migration was interrupted while starting: going on with it" in asked.stderr
    assert (asked.returncode != 0, "--yes" in asked.stderr) == (True, True)
    stopped_at(standard, "entered after", "--undo")
    for at in ("created", "started", "entered", "untagged"):
        stopped_at(standard, f"{at} after")
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode != 0
    assert "rolled back, the standard deployment runs again on the same volumes" in done.stderr
    assert "it was to be undone" in done.stderr
    assert images(standard) == before
    assert data(standard) == ("precious\n", "page\n")
    assert left_over(standard) == []
    assert not journal_of(standard).exists()
    none = standard.doit("migrate_to_optimized", "--undo")
    assert (none.returncode != 0, "COMPOSE_FILE=docker-compose.yml" in none.stderr) == (True, True)


@pytest.mark.engine
def test_it_builds_switches_and_keeps_the_data(standard: Stack) -> None:
    """After all that was rolled back."""
    assert kinds(standard) == {"store": "standard", "web": "standard"}
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode == 0, done.stderr
    assert kinds(standard) == {"store": "optimized", "web": "optimized"}
    assert data(standard) == ("precious\n", "page\n")
    assert re.search(r"migrated: downtime [0-9.]+ s in all, store [0-9.]+ s, web [0-9.]+ s", done.stderr)
    assert networks(standard) == [f"{standard.prefix}_default", f"{standard.prefix}_optimized"]
    assert left_over(standard) == []
    assert not journal_of(standard).exists()

    again = standard.doit("migrate_to_optimized", "--yes")
    assert (again.returncode, "is the optimized deployment already" in again.stderr) == (0, True)


@pytest.mark.engine
def test_nothing_runs(deployed: Stack) -> None:
    deployed.write(FILES)
    docker("rm", "--force", "--volumes", *deployed.ids().values())
    done = deployed.doit("migrate_to_optimized", "--yes")
    assert (done.returncode != 0, "nothing of" in done.stderr) == (True, True)


STEPS = (
    "begun", "held", "stopped", "saved", "entered:switching", "created", "started", "entered:starting", "created",
    "started", "entered:done", "untagged",
)  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize("steps", [STEPS[1::2], pytest.param(STEPS, marks=pytest.mark.all)], ids=["some", "all"])
def test_killed_after_each_step_the_next_run_goes_on(standard: Stack, steps: tuple[str, ...]) -> None:
    standard.write(WITH_BACKUP)
    # Built before, so that each run is about the steps.
    assert standard.doit("build_optimized").returncode == 0
    told = ""
    for at in steps:
        told += stopped_at(standard, f"{at} after").stderr
        assert journal_of(standard).exists(), at
    assert "store hold what they held: 1 entries in 1 parts, by count and checksum" in told
    assert kinds(standard) == {"store": "optimized", "web": "optimized"}
    failed = stopped_at(standard, "closing raises")
    assert "it is migrated and healthy, but what held the way back is still there" in failed.stderr
    assert "rolled back" not in failed.stderr
    done = standard.doit("migrate_to_optimized", "--yes")
    assert done.returncode == 0, done.stderr
    assert kinds(standard) == {"store": "optimized", "web": "optimized"}
    all_ids = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={standard.prefix}")
    assert len(all_ids.stdout.split()) == 2
    assert data(standard) == ("precious\n", "page\n")
    assert left_over(standard) == []
    assert not journal_of(standard).exists()


@pytest.mark.engine
def test_up_and_down_end_a_migration_that_was_left(standard: Stack) -> None:
    assert standard.doit("build_optimized").returncode == 0
    stopped_at(standard, "created after")
    done = standard.doit("up_optimized", COMPOSE_FILE=str(standard.folder / "docker-compose.yml"))
    assert (done.returncode, "a migration was left while starting" in done.stderr) == (0, True), done.stderr
    assert kinds(standard) == {"store": "standard", "web": "standard"}
    assert (journal_of(standard).exists(), left_over(standard)) == (False, [])

    stopped_at(standard, "created after")
    # By somebody else, who does not look at the journal: it is healthy, so nothing may lead back, whatever comes next.
    compose = standard.folder / "compose.yml"
    docker("compose", "--file", str(compose), "up", "--no-build", "--detach", "--wait")
    new = images(standard)
    standard.write({"optimized.Dockerfile": f"FROM tst-busybox:1\n{BROKEN['ends at once']}\n"})
    done = standard.doit("migrate_to_optimized", "--yes")
    assert (done.returncode, images(standard)) == (0, new), done.stderr
    assert (journal_of(standard).exists(), left_over(standard)) == (False, [])

    journal_of(standard).write_text(json.dumps({"phase": "switching", "before": {}, "archive": "", "reason": ""}))
    down = standard.doit("down_optimized")
    assert "its containers are gone, so it is over" in down.stderr
    assert not journal_of(standard).exists()


# ---- the real deployments


class Deployment(Lab):
    """This repository's own stack under a name, on ports and with secrets of its own, as files in ``folder`` declare
    it."""

    def __init__(self, folder: Path, ports: list[int], archives: Path) -> None:
        super().__init__(folder)
        self.archives = archives
        names = ("AUTH_PORT", "MEMORY_PORT", "ORCHESTRATOR_PORT")
        self.environ = {
            **secrets.random_values(ROOT),
            **{name: str(port) for name, port in zip(names, ports, strict=True)},
            "SERVICE_WORKERS": "1",
            "COMPOSE_PROJECT_NAME": self.prefix,
            "COMPOSE_FILE": str(folder / "docker-compose.optimized.yml"),
        }
        self.auth, self.memory = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"

    def start_standard(self) -> None:
        standard = str(self.folder / "docker-compose.yml")
        if self.folder == ROOT:
            done = self.doit("up_optimized", COMPOSE_FILE=standard)
        else:
            argv = ["docker", "compose", "--file", standard, "up", "--no-build", "--detach", "--wait"]
            done = subprocess.run(argv, env=self.env(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def rename(self) -> None:
        """Have the optimized images for standard ones, under names of our own: of these there is nothing to build."""
        for name in ("docker-compose.yml", "docker-compose.optimized.yml"):
            text = (ROOT / name).read_text().replace("context: .", f"context: {ROOT}")
            (self.folder / name).write_text(re.sub(r"vllm-swarm/(\w+:standard)", rf"{self.prefix}/\1", text))
        (self.folder / "docker").symlink_to(ROOT / "docker")
        shutil.copy(ROOT / ".env.example", self.folder)
        for name in DEPLOYED:
            docker("tag", f"vllm-swarm/{name}:optimized", f"{self.prefix}/{name}:standard")

    def kinds(self) -> set[str]:
        containers = Containers(self.prefix).look()
        serving = [each for each in containers if each.always]  # what makes the tables ends
        assert [each.health for each in serving] == ["healthy"] * 5, containers
        return {each.image.rpartition(":")[2] for each in containers}

    def close(self) -> None:
        Containers(self.prefix).remove()
        shutil.rmtree(self.folder / ".doit-images/backups" / self.prefix, ignore_errors=True)
        super().close()


@pytest.fixture(params=["renamed", pytest.param("built", marks=pytest.mark.all)])
def deployment(engine: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    folder = tmp_path / "project"
    folder.mkdir()
    with ExitStack() as stack:
        ports = [stack.enter_context(free_port()) for _ in range(3)]
        one = Deployment(ROOT if request.param == "built" else folder, ports, tmp_path)
        stack.callback(one.close)
        if request.param == "renamed":
            one.rename()
        yield one


FIRST = ROOT / "services/common/migrations/versions/0001_users_and_memories.py"
OLDER = """
    SET ROLE swarm;
    ALTER SCHEMA auth RENAME TO newer_auth;
    ALTER SCHEMA memory RENAME TO newer_memory;
    {first}
    DO $$ DECLARE one record; BEGIN
        FOR one IN
            SELECT table_schema AS schema, table_name AS name, string_agg(quote_ident(column_name), ', ') AS columns
            FROM information_schema.columns WHERE table_schema IN ('auth', 'memory')
            GROUP BY 1, 2 ORDER BY table_name <> 'users'
        LOOP
            EXECUTE format('INSERT INTO %1$I.%2$I (%3$s) SELECT %3$s FROM newer_%1$s.%2$I',
                           one.schema, one.name, one.columns);
        END LOOP;
    END $$;
    DROP SCHEMA newer_auth, newer_memory, orchestrator CASCADE;
    UPDATE alembic_version SET version_num = '0001';
    """
"""Puts tables as the first migration makes them in the place of those that are there, with what fits into them: nothing
that a later migration adds is named, so none can be forgotten. Users come first, as others refer to them."""


def older() -> str:
    [first] = re.findall(r'^upgrade = upgrading\("""(.*?)"""', FIRST.read_text(), re.DOTALL | re.MULTILINE)
    return OLDER.format(first=first)


VERSION = "SELECT version_num FROM alembic_version;"


def sql(deployment: Deployment, statements: str) -> str:
    [postgres] = [one.id for one in Containers(deployment.prefix).look() if one.service == "postgres"]
    done = docker("exec", "-i", postgres, "psql", "-U", "postgres", "-XAtd", "swarm", stdin=statements.encode())
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout.strip().splitlines()[-1]


def saved(deployment: Deployment) -> str:
    done = deployment.doit("backup", "--to", str(deployment.archives))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.stack
def test_users_and_memories_survive_the_way_there_and_back(deployment: Deployment) -> None:
    deployment.start_standard()
    assert deployment.kinds() == {"standard"}

    user = {"username": "before", "password": "a-password-of-before"}
    text = "The spare key is under the blue flowerpot."
    with httpx.Client(timeout=None, trust_env=False) as client:

        def token() -> dict[str, str]:
            answer = client.post(f"{deployment.auth}/token", data=user).raise_for_status()
            return {"Authorization": f"Bearer {answer.json()['access_token']}"}

        client.post(f"{deployment.auth}/users", json=user).raise_for_status()
        asked = {"name": "kept", "password": user["password"]}
        made = client.post(f"{deployment.auth}/api-keys", json=asked, headers=token()).raise_for_status()
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

        runs: list[subprocess.CompletedProcess[str]] = []
        if deployment.folder == ROOT:
            # Far too little memory, which only the optimized deployment limits: its services are killed as they start.
            runs.append(deployment.doit("migrate_to_optimized", "--yes", SERVICE_MEMORY="6m"))
            assert runs[-1].returncode != 0
            assert "rolled back" in runs[-1].stderr, runs[-1].stderr
            assert "optimized" not in deployment.kinds()
            all_is_there()

        # Newer tables are refused; older ones, which have no sessions, are brought to this version.
        archive, now = Path(saved(deployment)), sql(deployment, VERSION)
        newer = shutil.copytree(archive, archive.with_name("newer"))
        manifest = json.loads((newer / MANIFEST).read_text())
        assert manifest["stores"]["postgres"]["version"] == now
        manifest["stores"]["postgres"]["version"] = "9999"
        (newer / MANIFEST).write_text(json.dumps(manifest))
        runs.append(deployment.doit("restore", str(newer), "--yes"))
        assert "the tables are of version 9999, newer than these services; nothing was changed" in runs[-1].stderr
        sql(deployment, older())
        runs.append(done := deployment.doit("migrate_to_optimized", "--yes"))
        assert done.returncode == 0, done.stderr
        assert sql(deployment, VERSION) == now
        assert "migrated: downtime " in done.stderr
        assert re.search(r"postgres and redis hold what they held: \d+ entries in \d+ parts", done.stderr)
        assert deployment.kinds() == {"optimized"}
        runs.append(restored := deployment.doit("restore", str(archive), "--yes"))
        assert restored.returncode == 0, restored.stderr
        all_is_there()
    for value in (deployment.environ[name] for name in secrets.needed(ROOT)):
        assert all(value not in one.stdout + one.stderr for one in runs)


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
        Replacement("store", "store:standard", "store:optimized", ("p_data",)),
        Replacement("web", "web:standard", "web:optimized", ()),
    ]
    assert changes_between([container("web", "web:optimized")], standard, optimized) == []
    assert changes_between([container("other", "other:1")], standard, optimized) == []
    assert changes_between([container("web", "web:standard", state="exited")], standard, optimized) == []
    with pytest.raises(UserError, match="keeps data in the volume p_data"):
        changes_between(running, standard, {"store": service("store", "store:optimized")})


def test_what_is_there_is_compared_part_by_part() -> None:
    said = "auth.users 2 -17\n\nkey 1 abc 5000\n"
    before = parts(said)
    assert before == [DataPart("auth.users", 2, "-17"), DataPart("key", 1, "abc", 5000)]
    assert differences(before, parts(said), now=1) == []
    assert differences(before, before[:1], now=5) == [], "its time is over"
    assert differences(before, before[:1], now=4) == ["key is gone"]
    assert differences(before, parts("auth.users 1 -17\nkey 1 abd 5000"), now=1) == [
        "auth.users has 1 where it had 2", "key is another",
    ]  # fmt: skip
    assert differences(before, [*before, DataPart("more", 1, "1")], now=1) == ["more is new"]
    with pytest.raises(UserError, match="cannot be counted"):
        parts("psql: error: no such table")


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
    path = tmp_path / "migration.json"
    assert journal.read(path) is None
    kept = Journal(Phase.SWITCHING, {"web": Before("web:standard", "sha256:1")}, "/archive", "why")
    journal.write(path, kept)
    assert journal.read(path) == kept
    path.write_text('{"phase": "elsewhere"}')
    with pytest.raises(UserError, match="cannot be read"):
        journal.read(path)


@pytest.mark.parametrize("phase", list(Phase))
def test_what_goes_wrong_leads_back_once_and_only_before_all_is_healthy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phase: Phase
) -> None:
    """Where what ran before does not get well either, somebody has to look."""
    done: list[Phase] = []

    def step(at: Phase, to: Phase | None) -> Callable[[object], Phase | None]:
        def act(way: object) -> Phase | None:
            if at in done:
                raise SystemExit(f"{at} for the second time")
            done.append(at)
            if at == phase:
                raise UserError(f"{at} failed")
            return to

        return act

    then = {Phase.ROLLING_BACK: Phase.UNDONE}
    monkeypatch.setattr(migrate, "_STEPS", {at: step(at, then.get(at)) for at in Phase})
    monkeypatch.setattr(Containers, "events", lambda self: nullcontext(None))
    run = SimpleNamespace(project=SimpleNamespace(name="p"), common=tmp_path, environ={})
    if phase in (Phase.SAVING, Phase.SWITCHING, Phase.STARTING):
        migrate._go_on(run, Journal(phase))
        assert done == [phase, Phase.ROLLING_BACK, Phase.UNDONE]
        kept = journal.read(journal.path_of(run))
        assert kept is not None
        assert (kept.phase, kept.reason) == (Phase.UNDONE, f"{phase} failed")
    else:
        with pytest.raises(UserError, match=f"{phase} failed"):
            migrate._go_on(run, Journal(phase))
        assert done == [phase]


def test_what_runs_says_what_an_interrupted_migration_left() -> None:
    left = Journal(Phase.SWITCHING, {"web": Before("web:standard", "1"), "store": Before("store:standard", "2")})
    new = {name: service(name, f"{name}:optimized") for name in ("web", "store", "more")}

    def of(*refs: str, state: str = "running", health: str = "") -> Found:
        containers = [replace(container(ref.partition(":")[0], ref, state=state), health=health) for ref in refs]
        return found(left, containers, new)

    assert of("web:standard", "store:standard") == Found.UNTOUCHED
    assert of("web:standard", "store:before-migration") == Found.UNTOUCHED, "it was put back by that name"
    assert of("web:standard") == of("web:standard", "store:optimized") == of() == Found.HALF_WAY
    assert of("web:standard", "store:standard", state="created") == Found.HALF_WAY
    assert of("web:optimized", "store:optimized", "more:optimized") == Found.SWITCHED
    assert of("web:optimized", "store:optimized") == Found.HALF_WAY, "one is missing"
    assert of("web:optimized", "store:optimized", "more:optimized", health="starting") == Found.HALF_WAY
