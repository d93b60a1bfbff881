"""A part of a stack: does what a named service needs come too, and nothing else; is a command's status the run's?

On the engine with Compose of this machine and, with ``--all``, with that of Debian's testing suite.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import newer_engine
from doit_images.core.base.errors import UserError
from doit_images.core.compose.image import Image
from doit_images.core.compose.stack import Compose, Service
from doit_images.core.run import Run
from doit_images.stack import backup, parts
from doit_images.stack.checkout import project_of
from doit_images.stack.dev import _Seen
from tests.conftest import ROOT, docker
from tests.stack.test_shell import Terminal
from tests.stack.test_stack import Followed, Stack
from tests.waiting import patience, until

PROJECT = {
    "compose.yml": """
        name: PREFIX
        x-small: &small {init: true, stop_grace_period: 1s, tmpfs: [/tmp]}
        services:
          base: {image: PREFIX/base, scale: 0, build: {context: base}}
          db:
            <<: *small
            image: tst-busybox:1
            command: [sleep, "1000"]
            volumes: ["data:/data"]
            healthcheck: {test: "true", interval: 1s, start_period: 60s}
          web:
            <<: *small
            image: PREFIX/web
            build: {context: web, additional_contexts: {base: "service:base"}}
            depends_on: {db: {condition: service_healthy, restart: true}}
            environment: {OF: "${OF:-PREFIX}"}
          worker: {<<: *small, image: PREFIX/web, network_mode: "service:db"}
          other: {<<: *small, image: PREFIX/other, build: {context: other}}
          debug: {<<: *small, image: PREFIX/debug, build: {context: debug}, profiles: [tools], depends_on: [db]}
        volumes: {data: {}}
        """,
    "base/Dockerfile": 'FROM tst-busybox:1\nCMD ["sleep", "1000"]\n',
    "web/Dockerfile": "FROM base\nCOPY name /name\n",
    "web/name": "web of PREFIX\n",
    "other/Dockerfile": "FROM tst-busybox:1\nCOPY name /name\n",
    "other/name": "other of PREFIX\n",
    "debug/Dockerfile": 'FROM tst-busybox:1\nCOPY name /name\nCMD ["sleep", "1000"]\n',
    "debug/name": "debug of PREFIX\n",
}
RUNNING = "{{.Names}}"


@pytest.fixture(scope="module", params=["here", pytest.param(newer_engine.SUITE, marks=pytest.mark.all)])
def stack(busybox: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one = Stack(tmp_path_factory.mktemp("parts"))
    one.write(PROJECT)
    if request.param != "here":
        one.environ |= newer_engine.compose_alone(tmp_path_factory.mktemp("docker"))
    yield one
    one.close()


@pytest.fixture
def down(stack: Stack) -> Stack:
    stack.down()
    return stack


@pytest.fixture
def up(stack: Stack) -> Stack:
    """With `web` and what it needs."""
    if not {"db", "web"} <= set(stack.containers()):
        done = stack.doit("up_optimized", "web")
        assert done.returncode == 0, done.stderr
    return stack


def built(stack: Stack) -> set[str]:
    return {ref.removeprefix(f"{stack.prefix}/").partition(":")[0] for ref in stack.images()}


def once(stack: Stack) -> list[str]:
    """The containers of the project that belong to no service's replicas."""
    label = f"label=com.docker.compose.project={stack.prefix}"
    listed = docker("ps", "--all", "--format", RUNNING, "--filter", label, "--filter", "name=doit-images-once")
    return listed.stdout.split()


def test_what_a_named_service_needs_comes_too_and_nothing_else_is_built(down: Stack) -> None:
    done = down.doit("up_optimized", "wbe")
    assert (done.returncode, built(down)) == (3, set())
    there = "did you mean 'web'? there are base, db, debug, other, web, worker"
    assert done.stderr.strip() == f"ERROR: no service is called 'wbe' ({there})"

    done = down.doit("up_optimized", "worker")  # it runs what `web` builds
    assert done.returncode == 0, done.stderr
    assert set(down.containers()) == {"db", "worker"}
    assert built(down) == {"base", "web"}
    before = down.ids()

    done = down.doit("up_optimized", "web", "--no-deps")
    assert done.returncode == 0, done.stderr
    assert {name: down.ids()[name] for name in before} == before
    assert set(down.containers()) == {"db", "web", "worker"}

    docker("stop", "--time", "0", before["db"])
    done = down.doit("up_optimized", "--no-deps", "web")
    assert done.returncode == 0, done.stderr
    assert down.containers()["db"]["State"]["Status"] == "exited", "it is started by nobody who wants `web` alone"


def test_a_service_of_another_profile_is_started_when_it_is_named(down: Stack) -> None:
    done = down.doit("up_optimized", "debug", "--dry-run")
    assert done.returncode == 3
    done = down.doit("up_optimized", "--dry-run", "debug")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:2]] == [["debug", "build"]], done.stderr
    done = down.doit("up_optimized", "debug")
    assert done.returncode == 0, done.stderr
    assert set(down.containers()) == {"db", "debug"}


def test_a_command_in_a_service_has_our_input_and_gives_us_its_status(up: Stack) -> None:
    argv = up.argv("exec", "web", "env", "A=1", "sh", "-c", "cat /name; read x; echo $A-$x; exit 7")
    done = subprocess.run(argv, cwd=ROOT, env=up.env(), input="b\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, f"web of {up.prefix}\n1-b\n", "")
    done = up.doit("exec", "--user", "12:34", "web", "sh", "-c", "id -u; id -g; tty")
    assert (done.returncode, done.stdout) == (1, "12\n34\nnot a tty\n"), done.stderr


@pytest.mark.parametrize("words", [("exec", "web"), ("run_once", "--no-deps", "web"), ("compose", "exec", "web")])
def test_a_command_has_a_terminal_where_we_have_one(up: Stack, words: tuple[str, ...]) -> None:
    terminal = Terminal(up, *words, "sh", "-c", "tty; read x; exit $x")
    terminal.wait_for("/dev/pts/")
    terminal.type("5\n")
    assert terminal.process.wait(patience()) == 5, terminal.text


@pytest.mark.parametrize("words", [("run_once",), ("run",)])
def test_a_command_in_a_container_of_its_own_finds_what_the_service_needs(down: Stack, words: tuple[str]) -> None:
    for _ in range(3):  # an engine loses what a command wrote where it has no time to read it (moby/moby#45689)
        done = down.doit(*words, "web", "sh", "-c", "cat /name; echo $OF; exit 9", OF="tests")
        if done.stdout:
            break
    assert (done.returncode, done.stdout) == (9, f"web of {down.prefix}\ntests\n"), done.stderr
    assert set(down.containers()) == {"db"}
    assert down.containers()["db"]["State"]["Health"]["Status"] == "healthy"
    assert once(down) == []


def test_a_container_of_its_own_goes_with_a_run_that_is_stopped(up: Stack) -> None:
    process = up.start("run_once", "--no-deps", "web", "sh", "-c", "echo begun; sleep 1000")
    assert process.stdout
    while "begun" not in (line := process.stdout.readline()):
        assert line, "it ended"
    process.terminate()
    assert process.wait(patience()) == 143
    until(lambda: once(up) == [], "it goes")


def test_services_are_restarted_and_removed_by_name(up: Stack) -> None:
    before = {name: one["State"]["StartedAt"] for name, one in up.containers().items()}
    done = up.doit("restart", "--no-deps", "db")
    assert done.returncode == 0, done.stderr
    after = {name: one["State"]["StartedAt"] for name, one in up.containers().items()}
    assert {name for name in ("db", "web") if after[name] != before[name]} == {"db"}
    assert up.containers()["db"]["State"]["Health"]["Status"] == "healthy"

    done = up.doit("down_optimized", "web", "--volumes", "--yes")
    assert done.returncode == 0, done.stderr
    assert "web" not in up.containers()
    assert up.volumes() == [f"{up.prefix}_data"], "it is of another service"
    done = up.doit("down_optimized", "db", "worker", "--volumes", "--yes")
    assert f"removed {up.prefix}-db-1" in done.stderr
    assert f"for ever the data in {up.prefix}_data" in done.stderr
    assert (up.volumes(), "db" in up.containers()) == ([], False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("restart", "dbb"), "no service is called 'dbb' (did you mean 'db'? there are base, db, other, web, worker)"),
        (("restart", "other"), "other is not up (doit up_optimized other)"),
        (("exec", "other", "ls"), "other does not run (doit up_optimized other)"),
        (("exec", "web"), "exec needs the name of a service and a command"
                          " (doit exec SERVICE COMMAND …; doit shell SERVICE opens a shell)"),
        (("run_once",), "run_once needs the name of a service (doit run_once SERVICE [COMMAND …])"),
        (("down_optimized", "x"), "no service is called 'x' (there are base, db, other, web, worker)"),
        (("down_optimized", "--gone", "web"), "services are removed of this checkout's stack alone"
                                              " (leave out the option)"),
        (("up_optimized", "--no-deps"), "ERROR: --no-deps is about services that are named (name them)"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_sentence(up: Stack, words: tuple[str, ...], sentence: str) -> None:
    done = up.doit(*words)
    assert done.returncode in (1, 3)
    assert sentence in done.stderr


def test_compose_gets_all_its_words_and_our_files_name_environment_and_images(up: Stack) -> None:
    # Another checkout has built the name meanwhile: the container is made from ours all the same.
    docker("tag", "tst-busybox:1", f"{up.prefix}/web:latest")
    done = up.doit("compose", "--progress", "quiet", "up", "--detach", "--no-build", "--force-recreate", "web")
    assert done.returncode == 0, done.stderr
    done = up.doit("compose", "exec", "--no-TTY", "web", "sh", "-c", "cat /name; echo $OF; exit 3")
    assert (done.returncode, done.stdout) == (3, f"web of {up.prefix}\n{up.prefix}\n"), done.stderr
    done = up.doit("compose", "--", "--profile", "tools", "config", "--services", OF="x")
    assert "debug" in done.stdout.split(), done.stderr
    assert "Usage:  docker compose" in up.doit("compose", "--help").stdout


def test_logs_of_one_service_are_followed(up: Stack) -> None:
    assert up.doit("up_optimized", "web").returncode == 0
    process = up.start("logs_optimized", "web", "-f")
    process.terminate()
    assert process.wait(patience()) in (-15, 143)
    assert "no option" not in (process.stdout.read() if process.stdout else "")


def test_edits_of_what_a_part_does_not_need_are_none_of_its_business(stack: Stack) -> None:
    run = Run((stack.folder / "compose.yml",), stack.env(), stack.folder)
    seen = _Seen.now(run, parts.part(project_of(run), ["worker"]))
    assert (set(seen.services), set(seen.inputs)) == ({"db", "worker"}, {"base", "web"})
    assert set(_Seen.now(run, project_of(run)).inputs) == {"base", "web", "other"}


@pytest.mark.all
def test_a_service_that_a_provider_runs_has_no_container_to_wait_for(stack: Stack, tmp_path: Path) -> None:
    provider = tmp_path / "bin" / "lends-a-store"
    provider.parent.mkdir()
    asked = tmp_path / "asked"
    lends = '[ "$3" != up ] || echo \'{"type": "setenv", "message": "URL=lent"}\''
    provider.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{lends}\n')
    provider.chmod(0o755)
    web = "{image: tst-busybox:1, command: [sleep, '1000'], init: true, stop_grace_period: 0s, depends_on: [store]}"
    services = f"{{store: {{provider: {{type: {provider.name}}}}}, lent: {web}}}"
    (stack.folder / "lent.yml").write_text(f"name: {stack.prefix}\nservices: {services}\n")
    given = {"COMPOSE_FILE": str(stack.folder / "lent.yml"), "PATH": f"{provider.parent}:{os.environ['PATH']}"}
    done = stack.doit("up_optimized", **given)
    if "DOCKER_CONFIG" not in stack.environ and "property provider is not allowed" in done.stderr:
        return  # this machine's Compose is as old as 2.26, which refuses it in a sentence
    assert done.returncode == 0, done.stderr
    done = stack.doit("exec", "lent", "env", **given)
    assert "STORE_URL=lent" in done.stdout.splitlines(), done.stderr
    done = stack.doit("down_optimized", **given)
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in asked.read_text().splitlines() if line.startswith("compose ")]
    assert ["down" in line for line in words] == [*[False] * (len(words) - 1), True], "who lends it is told"


HOOKED = """
    name: PREFIX
    services:
      hooked:
        image: tst-busybox:1
        command: [sleep, "1000"]
        init: true
        stop_grace_period: 0s
        volumes: ["./told:/told"]
        post_start: [{command: [sh, -c, "echo began >> /told/all"]}]
        pre_stop: [{command: [sh, -c, "echo ends >> /told/all"]}]
"""
NEWER = """
        models: [small]
        develop: {watch: [{action: sync, path: sources, target: /sources, initial_sync: true}]}
    models: {small: {model: ai/small, context_size: 1024}}
"""
MODEL = """#!/bin/sh
echo "$@" >> ASKED
case $1 in
  docker-cli-plugin-metadata)
    echo '{"SchemaVersion": "0.1.0", "Vendor": "tests", "Version": "v1.0.0", "ShortDescription": "none"}' ;;
  ls) echo '[]' ;;
  status) echo '{"endpoint": "http://models.example/"}' ;;
esac
"""


@pytest.mark.all
def test_hooks_models_and_a_first_sync_are_passed_on(stack: Stack, tmp_path: Path) -> None:
    one, knows, asked = Stack(tmp_path), "DOCKER_CONFIG" in stack.environ, tmp_path / "asked"
    one.environ = dict(stack.environ)
    one.write({"compose.yml": HOOKED + (NEWER if knows else ""), "sources/a": "from PREFIX\n", "told/all": ""})
    if knows:
        plugin = Path(stack.environ["DOCKER_CONFIG"], "cli-plugins", "docker-model")
        plugin.write_text(MODEL.replace("ASKED", str(asked)))
        plugin.chmod(0o755)
    followed = Followed(one)
    try:
        followed.wait_for("following edits")
        followed.process.send_signal(signal.SIGINT)
        assert followed.process.wait(patience()) == 130
        said = "".join(followed.said)
        assert ("services.hooked.post_start is passed over by Compose 2." in said) != knows
        if knows:
            inside = docker("exec", one.ids()["hooked"], "sh", "-c", "cat /sources/a; env").stdout.splitlines()
            assert {f"from {one.prefix}", "SMALL_URL=http://models.example/", "SMALL_MODEL=ai/small"} <= set(inside)
            assert {"pull ai/small", "configure --context-size 1024 ai/small"} <= set(asked.read_text().splitlines())
        before = one.ids()
        assert one.doit("up_optimized").returncode == 0
        assert (one.ids() == before) != knows, (
            "what dev mounted is mounted no more: Compose replaces it, without its hook"
        )
        backup.stop(Compose((tmp_path / "compose.yml",), one.prefix, one.env()), [])
        done = one.doit("down_optimized")
        assert done.returncode == 0, done.stderr
        told = (tmp_path / "told/all").read_text().split()
        assert told == (["began", "began", "ends"] if knows else [])
    finally:
        one.close()


# ---- what is chosen

NAMES = st.sampled_from("abcdef")
GRAPHS = st.dictionaries(NAMES, st.lists(NAMES, max_size=3))


@given(st.lists(NAMES, max_size=3), GRAPHS)
def test_images_come_with_all_that_they_build_on_and_no_others(
    wanted: list[str], parents: dict[str, list[str]]
) -> None:
    found = parts.with_parents(wanted, parents)
    assert found.issuperset(wanted)
    assert found.issuperset(parent for name in found for parent in parents.get(name, ()))
    # Whoever is there is wanted, or somebody needs it who is there without it.
    for name in found.difference(wanted):
        without = {one: [two for two in over if two != name] for one, over in parents.items()}
        assert name not in parts.with_parents(wanted, without)


@given(st.dictionaries(NAMES, NAMES), st.dictionaries(NAMES, NAMES))
def test_images_are_those_that_services_build_or_run(images: Mapping[str, str], services: Mapping[str, str]) -> None:
    declared = {name: image(name, f"x/{ref}") for name, ref in images.items()}
    wanted = {
        name: Service(
            name, (images.get(name) and f"x/{images[name]}") or f"docker.io/x/{ref}:latest", name in images, 1, {}
        )
        for name, ref in services.items()
    }
    run = {one.image.removeprefix("docker.io/").removesuffix(":latest") for one in wanted.values()}
    expected = [name for name, ref in images.items() if f"x/{ref}" in run]
    assert parts.images_of(declared, wanted) == expected


def image(name: str, ref: str) -> Image:
    return Image(name=name, ref=ref, context="/", dockerfile="/Dockerfile")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("wbe", "did you mean 'web'? there are db, web"), ("nobody", "there are db, web")],
)
def test_a_name_that_there_is_not(name: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        parts.check(["db", name], ["web", "db"])
    assert str(caught.value) == f"no service is called {name!r} ({remedy})"
