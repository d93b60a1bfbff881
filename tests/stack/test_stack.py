"""The stack on the real engine: up, looked at, followed while it is edited, killed, taken down.

Small containers of a laboratory project stand for the services: what is tried is how they are started and watched.
The services themselves are tried by the end-to-end tests (`test_ci.py`).
"""

from __future__ import annotations

import json
import math
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

from tests.conftest import ROOT, Lab, docker
from tests.waiting import patience, until

pytestmark = pytest.mark.engine

# Each look at a container's health costs a tenth of a second of a processor.
HEALTH = "--interval=10s --start-interval=200ms --start-period=10s"
PROJECT = {
    "compose.yml": """
        name: PREFIX
        x-small: &small {init: true, stop_grace_period: 1s, restart: unless-stopped, tmpfs: [/tmp]}
        services:
          base: {image: PREFIX/base, scale: 0, build: {context: base}}
          store:
            <<: *small
            image: PREFIX/store
            build: {context: store, additional_contexts: {base: "service:base"}}
            environment: {STORE_PASSWORD: "${STORE_PASSWORD:-}"}
            volumes: ["data:/data"]
          web:
            <<: *small
            image: PREFIX/web
            build: {context: web, additional_contexts: {base: "service:base"}}
            depends_on: {store: {condition: service_healthy}}
            ports: ["127.0.0.1:${WEB_PORT:-0}:80"]
            read_only: true
            develop:
              watch:
                - {action: sync, path: web/www, target: /www}
                - {action: sync+restart, path: web/app, target: /app, ignore: ["*.md"]}
                - {action: rebuild, path: web/settings}
                - action: sync+exec
                  path: web/c$$f
                  target: /c$$f
                  ignore: [gen/]
                  exec:
                    command: [sh, -c, 'echo "$$(cat /c?f/a) $$KEY $$PWD"']
                    environment: {KEY: "of PREFIX"}
                    working_dir: /www
        volumes: {data: {}}
        """,
    ".env.example": "# the store's\nSTORE_PASSWORD=change-me\nWEB_PORT=0\n",
    "base/Dockerfile": f"""
        FROM tst-busybox:1
        HEALTHCHECK {HEALTH} --retries=2 CMD test -e /tmp/well
        """,
    "store/Dockerfile": """
        FROM base
        COPY run /run.sh
        CMD ["sh", "/run.sh"]
        """,
    "store/run": "echo store of PREFIX; touch /tmp/well; exec sleep 1000\n",
    "web/Dockerfile": """
        FROM base
        COPY settings /settings
        COPY www /www
        COPY app /app
        CMD ["sh", "/app/run"]
        """,
    "web/settings": "1\n",
    "web/www/index.html": "first\n",
    "web/c$f/a": "loaded\n",
    "web/c$f/gen/x": "1\n",
    "web/app/run": "echo serving; grep -q ill /settings || touch /tmp/well; exec httpd -f -p 80 -h /www\n",
}


class Stack(Lab):
    """A laboratory project whose containers, networks and volumes vanish at the end, too."""

    def containers(self) -> dict[str, dict[str, Any]]:
        ids = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.prefix}").stdout
        found = json.loads(docker("inspect", *ids.split()).stdout) if ids else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def ids(self) -> dict[str, str]:
        return {name: one["Id"] for name, one in self.containers().items()}

    def volumes(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.prefix}"
        return docker("volume", "ls", "--quiet", "--filter", label).stdout.split()

    def up(self, **environ: str) -> subprocess.CompletedProcess[str]:
        done = self.doit("up_optimized", **environ)
        assert done.returncode == 0, done.stderr
        return done

    def get(self, path: str = "/index.html") -> str:
        binding = self.containers()["web"]["NetworkSettings"]["Ports"]["80/tcp"][0]
        with urllib.request.urlopen(f"http://127.0.0.1:{binding['HostPort']}{path}") as answer:
            return str(answer.read().decode())

    def down(self) -> None:
        docker("compose", "--project-name", self.prefix, "down", "--volumes", "--remove-orphans", "--timeout", "0")
        for volume in self.volumes():
            docker("volume", "rm", volume)

    def anew(self, files: dict[str, str]) -> Stack:
        """Down, without data, and with these files only. What was built of them before is still there."""
        self.down()
        self.write_only(files, kept={".doit-images"})
        return self

    def write_only(self, files: dict[str, str], kept: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.write(files)

    def close(self) -> None:
        self.down()
        super().close()


@pytest.fixture(scope="module")
def built(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one = Stack(tmp_path_factory.mktemp("stack"))
    yield one
    one.close()


@pytest.fixture
def stack(built: Stack) -> Stack:
    return built.anew(PROJECT)


@pytest.fixture
def running(built: Stack) -> Stack:
    """The stack as it is when it is up, whatever the test before left of it."""
    if set(built.containers()) == {"store", "web"}:
        built.write_only(PROJECT, kept={".doit-images", ".env"})
    else:
        built.anew(PROJECT)
    built.up()
    return built


def test_up_builds_starts_and_waits_and_a_second_time_changes_nothing(stack: Stack) -> None:
    done = stack.up()
    assert {name: one["State"]["Health"]["Status"] for name, one in stack.containers().items()} == {
        "store": "healthy",
        "web": "healthy",
    }
    table = done.stdout.splitlines()
    assert table[0].split() == ["service", "state", "addresses", "image"]
    assert re.match(rf"web +running \(healthy\) +127\.0\.0\.1:\d+ → 80 +{stack.prefix}/web [0-9a-f]{{12}}", table[2])
    assert "web: healthy" in done.stderr
    assert stack.get() == "first\n"

    made = secrets_that_were_made(stack, done)
    before = stack.ids()
    again = stack.up()
    assert stack.ids() == before
    assert again.stdout == done.stdout
    assert (stack.folder / ".env").read_text() == made

    stack.write({"web/www/index.html": "second\n"})
    stack.up()
    assert stack.ids()["store"] == before["store"]
    assert stack.ids()["web"] != before["web"]
    assert stack.get() == "second\n"


def secrets_that_were_made(stack: Stack, done: subprocess.CompletedProcess[str]) -> str:
    """What the first run wrote into ``.env``: for its owner alone, used, and shown and kept nowhere else."""
    env = stack.folder / ".env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    password = re.search(r"^STORE_PASSWORD=([0-9a-f]{64})$", env.read_text(), re.M)
    assert password
    assert f"STORE_PASSWORD={password[1]}" in stack.containers()["store"]["Config"]["Env"]
    assert str(env) in done.stderr
    assert password[1] not in done.stdout + done.stderr
    kept = [path for path in (stack.folder / ".doit-images").rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if password[1].encode() in path.read_bytes()] == []
    return env.read_text()


def test_a_port_that_is_taken_is_said_in_the_engines_words(running: Stack) -> None:
    port = running.containers()["web"]["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    other = Stack(running.folder / "other")
    other.write(PROJECT)
    try:
        done = other.doit("up_optimized", WEB_PORT=port)
        assert done.returncode != 0
        assert re.search(r"web: could not be started: .*port is already allocated", done.stderr)
    finally:
        other.close()


def test_ps_and_logs(running: Stack) -> None:
    found = {one["service"]: one for one in json.loads(running.doit("ps_optimized", "--json").stdout)}
    assert set(found) == {"store", "web"}
    assert (found["web"]["state"], found["web"]["health"], list(found["web"]["addresses"])) == (
        "running", "healthy", ["80"],
    )  # fmt: skip
    done = running.doit("logs_optimized", "--tail", "1", "store")
    assert done.stdout == f"store-1  | store of {running.prefix}\n"
    assert done.stderr == ""
    wrong = running.doit("logs_optimized", "shop")
    assert (wrong.returncode != 0, "no service is called 'shop'" in wrong.stderr) == (True, True)
    assert running.doit("logs_optimized", "--tail", "many").returncode != 0


def test_killed_by_its_user_up_starts_it_again_and_crashed_the_engine_does(running: Stack) -> None:
    ids = running.ids()
    # Docker takes `docker kill` for its user's wish, restart policy or not.
    docker("kill", ids["store"])
    assert running.containers()["store"]["State"]["Status"] == "exited"
    running.up()
    assert running.ids() == ids
    assert running.containers()["store"]["State"]["Health"]["Status"] == "healthy"

    process = running.containers()["web"]["State"]["Pid"]
    try:
        os.kill(process, signal.SIGKILL)
    except (PermissionError, ProcessLookupError):
        pytest.skip("a container's process can be killed from outside by root on the engine's machine only")
    until(lambda: running.containers()["web"]["State"]["Pid"] not in (0, process), "the engine restarts it")
    running.up()
    assert running.ids() == ids


def test_unhealthy_is_no_dead_end(stack: Stack) -> None:
    often = HEALTH.replace("--interval=10s", "--interval=500ms")
    stack.write({"base/Dockerfile": PROJECT["base/Dockerfile"].replace(HEALTH, often)})
    stack.up()
    docker("exec", stack.ids()["store"], "rm", "/tmp/well")
    until(lambda: stack.containers()["store"]["State"]["Health"]["Status"] == "unhealthy", "it is unhealthy")
    stack.up()
    assert stack.containers()["store"]["State"]["Health"]["Status"] == "healthy"


def test_down_keeps_the_data_unless_told_and_asks_before_it_goes(running: Stack) -> None:
    docker("exec", running.ids()["store"], "touch", "/data/kept")
    done = running.doit("down_optimized")
    assert done.returncode == 0, done.stderr
    assert running.containers() == {}
    assert running.volumes() == [f"{running.prefix}_data"]
    assert f"data is kept in {running.prefix}_data" in done.stderr

    running.up()
    assert docker("exec", running.ids()["store"], "ls", "/data").stdout == "kept\n"
    refused = running.doit("down_optimized", "--volumes")
    assert refused.returncode != 0
    assert f"for ever the data in {running.prefix}_data" in refused.stderr
    assert "--yes" in refused.stderr
    assert set(running.containers()) == {"store", "web"}

    done = running.doit("down_optimized", "--volumes", "--yes")
    assert done.returncode == 0, done.stderr
    assert (running.containers(), running.volumes()) == ({}, [])
    again = running.doit("down_optimized", "--volumes", "--yes")
    assert again.returncode == 0
    assert f"nothing of {running.prefix} is up" in again.stderr
    empty = json.loads(running.doit("ps_optimized", "--json").stdout)
    assert [(one["service"], one["state"]) for one in empty] == [("store", "missing"), ("web", "missing")]


def test_a_lost_env_file_is_not_replaced_while_data_needs_its_passwords(running: Stack) -> None:
    assert running.doit("down_optimized").returncode == 0
    (running.folder / ".env").unlink()
    done = running.doit("up_optimized")
    assert done.returncode != 0
    assert f"{running.prefix}_data" in done.stderr
    assert not (running.folder / ".env").exists()


def test_an_env_file_that_is_made_goes_into_no_image(stack: Stack) -> None:
    """Not in the run that makes it, nor in the next; where the project says that it is meant to, it does."""
    stack.write({"web/Dockerfile": f"{PROJECT['web/Dockerfile']}COPY --from=all . /all/\n"})
    text = (stack.folder / "compose.yml").read_text()
    contexts = 'context: web, additional_contexts: {base: "service:base"'
    assert contexts in text
    (stack.folder / "compose.yml").write_text(text.replace(contexts, f"{contexts}, all: ."))
    taken = "COPY takes .env, which may hold passwords (put a line .env into"
    before = stack.image_id(f"{stack.prefix}/web")  # of another test, if there is one
    for task in ("up_optimized", "build_optimized", "ci_build"):
        done = stack.doit(task)
        assert done.returncode != 0
        assert re.search(rf"web/Dockerfile:\d+: {re.escape(taken)}", done.stderr), task
    assert (stack.folder / ".env").is_file()
    assert stack.image_id(f"{stack.prefix}/web") == before
    stack.write({".dockerignore": ".doit-images\n.env\n"})
    stack.up()
    stack.write({".dockerignore": ".doit-images\n!.env\n"})
    assert stack.build() == {"web": "built"}


@pytest.mark.parametrize(
    ("env", "environ", "said"),
    [
        ("A=1\nSTORE_PASSWORD=change-me\n", {}, "/.env:2: STORE_PASSWORD still has the value of the example"),
        ("\n\nSTORE_PASSWORD=\n", {}, "/.env:3: STORE_PASSWORD is empty"),
        ("A=1\n", {}, "/.env: STORE_PASSWORD is not set"),
        ("STORE_PASSWORD=fine\n", {"STORE_PASSWORD": ""}, "environment: STORE_PASSWORD is empty"),
        ("STORE_PASSWORD=fine\n", {"STORE_PASSWORD": "change-me"}, "environment: STORE_PASSWORD still has"),
    ],
)
def test_an_example_or_empty_secret_is_refused(stack: Stack, env: str, environ: dict[str, str], said: str) -> None:
    stack.write({".env": env})
    done = stack.doit("_env_file", **environ)
    assert done.returncode != 0
    assert said in done.stderr
    assert "openssl rand" in done.stderr
    assert (stack.folder / ".env").read_text() == env


def test_what_does_not_become_healthy_is_named_with_its_last_lines(stack: Stack) -> None:
    stack.write({"web/app/run": "echo I have no /tmp/well; exec sleep 1000\n"})
    soon = "--interval=500ms --start-interval=200ms --start-period=1s"
    stack.write({"base/Dockerfile": PROJECT["base/Dockerfile"].replace(HEALTH, soon)})
    done = stack.doit("up_optimized")
    assert done.returncode != 0
    assert "web: unhealthy" in done.stderr
    assert "    I have no /tmp/well" in done.stderr
    assert re.search(r"store +running \(healthy\)", done.stdout)


def test_a_crash_loop_is_named_and_secrets_stay_hidden(stack: Stack) -> None:
    stack.write({"store/run": "echo my password is $STORE_PASSWORD; exit 3\n"})
    done = stack.doit("up_optimized")
    assert done.returncode != 0
    assert re.search(r"store: crash loop: restarted \d+ times, last with status 3", done.stderr)
    assert "    my password is ***" in done.stderr
    assert "web" in stack.containers()


def test_what_nothing_checks_and_dies_soon_was_never_ready(stack: Stack) -> None:
    stack.write({
        "compose.yml": "name: PREFIX\nservices: {web: {init: true, image: PREFIX/web, build: web}}\n",
        "web/Dockerfile": 'FROM tst-busybox:1\nCMD ["sh", "-c", "sleep 2; echo no store; exit 4"]\n',
    })  # fmt: skip
    done = stack.doit("up_optimized")
    assert done.returncode != 0
    assert "web: ended with status 4" in done.stderr
    assert "    no store" in done.stderr


def test_what_takes_too_long_is_named(stack: Stack) -> None:
    """It is given twice the time that all took when it was well."""
    began = time.monotonic()
    stack.up()
    seconds = math.ceil(2 * (time.monotonic() - began))
    never = "HEALTHCHECK --start-period=1h CMD false\n"
    stack.write({"web/Dockerfile": PROJECT["web/Dockerfile"] + never})
    done = stack.doit("up_optimized", UP_SECONDS=str(seconds))
    assert done.returncode != 0
    assert re.search(r"web: starting after \d+ s \(UP_SECONDS\)", done.stderr)


def test_two_at_once(stack: Stack) -> None:
    stack.write({"store/run": f"# not built yet\n{PROJECT['store/run']}"})
    running = [stack.start("up_optimized") for _ in range(2)]
    said = [one.communicate(timeout=patience())[0] for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    assert set(stack.containers()) == {"store", "web"}


def test_an_interrupted_up_can_be_run_again(stack: Stack) -> None:
    stack.write({"web/app/run": "until [ -e /tmp/go ]; do sleep 0.1; done; " + PROJECT["web/app/run"]})
    running = stack.start("up_optimized")
    until(lambda: stack.containers().get("web", {}).get("State", {}).get("Running"), "web was started")
    running.send_signal(signal.SIGINT)
    assert running.wait(patience()) == 130
    docker("exec", stack.ids()["web"], "touch", "/tmp/go")
    stack.up()
    assert stack.containers()["web"]["State"]["Health"]["Status"] == "healthy"


def test_ctrl_c_leaves_a_clean_terminal(stack: Stack) -> None:
    stack.write({"web/Dockerfile": PROJECT["web/Dockerfile"] + "HEALTHCHECK --start-period=1h CMD false\n"})
    environ = {name: value for name, value in stack.env().items() if name not in ("NO_COLOR", "CI")}
    environ |= {"TERM": "xterm-256color"}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execvpe(sys.executable, stack.argv("up_optimized"), environ)
    screen = pyte.Screen(100, 40)
    stream = pyte.ByteStream(screen)
    sent = False
    while True:
        try:
            written = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        stream.feed(written)
        if not sent and any(re.match(r"web +starting +[0-9.]+ s", line) for line in screen.display):
            assert screen.cursor.hidden
            os.write(terminal, b"\x03")
            sent = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert sent
    assert not screen.cursor.hidden
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert not any(line.startswith("web ") for line in shown), shown
    assert shown[-1].startswith("interrupted: ")


class Followed:
    """`doit dev_optimized` in the background, and what it says."""

    def __init__(self, stack: Stack) -> None:
        self.process = stack.start("dev_optimized")
        self.said: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)

    def wait_for(self, text: str) -> None:
        until(
            lambda: any(text in line for line in self.said) or self.process.poll() is not None,
            lambda: f"{text!r}:\n{''.join(self.said)}",
        )
        assert any(text in line for line in self.said), f"ended before it said {text!r}:\n{''.join(self.said)}"


def test_edits_reach_the_running_services(stack: Stack) -> None:
    stack.write({"web/app/README.md": "about\n"})
    # However long an edit takes here, what is ill meanwhile is no more than starting.
    stack.write({"base/Dockerfile": PROJECT["base/Dockerfile"].replace("--start-period=10s", "--start-period=1h")})
    followed = Followed(stack)
    try:
        followed.wait_for("following edits")
        assert stack.get() == "first\n"
        ids, started = stack.ids(), stack.containers()["web"]["State"]["StartedAt"]

        stack.write({"web/www/index.html": "second\n"})
        until(lambda: stack.get() == "second\n", "a mounted file is served")
        stack.write({"web/app/README.md": "ignored\n"})
        assert stack.containers()["web"]["State"]["StartedAt"] == started

        # At once: one that is seen empty and then with its text is restarted twice.
        (stack.folder / "new").write_text(PROJECT["web/app/run"].replace("serving", "serving again"))
        (stack.folder / "new").rename(stack.folder / "web/app/run")
        followed.wait_for("web runs the edited sources")
        followed.wait_for("serving again")
        assert stack.ids() == ids  # restarted, neither built nor made anew
        assert stack.containers()["web"]["State"]["StartedAt"] != started

        started = stack.containers()["web"]["State"]["StartedAt"]
        stack.write({"web/c$f/gen/x": "ignored\n"})
        stack.write({"web/c$f/a": "reloaded\n"})
        followed.wait_for(f"web | reloaded of {stack.prefix} /www")
        assert sum("running sh in" in line for line in followed.said) == 1
        assert stack.containers()["web"]["State"]["StartedAt"] == started

        stack.write({"web/settings": "2\n"})
        followed.wait_for("done in")
        assert stack.ids()["store"] == ids["store"]
        assert stack.ids()["web"] != ids["web"]
        assert docker("exec", stack.ids()["web"], "cat", "/settings").stdout == "2\n"

        # Nobody waits for the health of what is edited again.
        stack.write({"web/settings": "ill\n"})
        until(lambda: docker("exec", stack.ids()["web"], "cat", "/settings").stdout == "ill\n", "it runs")
        stack.write({"web/settings": "3\n"})
        until(lambda: docker("exec", stack.ids()["web"], "cat", "/settings").stdout == "3\n", "and the next")
        assert not any("unhealthy" in line for line in followed.said), followed.said

        stack.write({"web/Dockerfile": "FROM base\nCOPY nowhere /\n"})
        followed.wait_for("nowhere")
        assert stack.get() == "second\n"  # it runs on
    finally:
        followed.process.send_signal(signal.SIGINT)
    assert followed.process.wait(patience()) == 130
    followed.process.stdout and followed.process.stdout.close()
    assert any("the stack still runs" in line for line in followed.said)
    assert stack.containers()["web"]["State"]["Running"]


def test_a_project_without_secrets_or_builds(busybox: str, tmp_path: Path) -> None:
    one = Stack(tmp_path)
    one.write({
        "compose.yml": """
            name: PREFIX
            services:
              once: {image: tst-busybox:1, command: [sh, -c, "echo as usual; echo the tables are newer >&2"]}
              never: {image: tst-busybox:1, profiles: [extra], command: ["sleep", "1000"]}
            """,
    })  # fmt: skip
    try:
        done = one.up()
        assert re.search(r"once +exited", done.stdout)
        assert "once: the tables are newer" in done.stderr
        assert "as usual" not in done.stderr
        assert set(one.containers()) == {"once"}
        assert not (tmp_path / ".env").exists()
    finally:
        one.close()
        shutil.rmtree(tmp_path, ignore_errors=True)
