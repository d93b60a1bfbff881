"""`ci_build` and `ci_test`: reports and summaries, stacks of their own, side by side, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from doit_images.ci.build import build_summary, built_since
from doit_images.core.compose.stack import Compose, Service
from doit_images.core.history.store import Build
from doit_images.stack.containers import Container
from doit_images.stack.ephemeral_stack import EphemeralStack
from doit_images.stack.health import Waited
from tasks.end_to_end import pytest_argv, test_environ, test_summary, urls
from tests import forked
from tests.conftest import ROOT, docker
from tests.stack.test_stack import PROJECT, Stack
from tests.waiting import patience

# Functions of the module under test, not tests.
test_environ.__test__ = test_summary.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def built(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one = Stack(tmp_path_factory.mktemp("ci"))
    yield one
    one.close()


@pytest.fixture
def stack(built: Stack) -> Stack:
    return built.anew(PROJECT)


@pytest.fixture
def never_built(busybox: str, tmp_path: Path) -> Iterator[Stack]:
    one = Stack(tmp_path)
    one.write(PROJECT)
    yield one
    one.close()


# ---- ci_build


@pytest.mark.engine
def test_a_build_leaves_report_and_summary(never_built: Stack) -> None:
    stack = never_built
    summary = stack.folder / "summary.md"
    summary.write_text("before\n")
    done = stack.doit("ci_build", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"## Build of {stack.prefix}: passed\n\n3 images in ")
    assert summary.read_text() == f"before\n{done.stdout}"
    assert "\x1b" not in done.stdout + done.stderr
    report = json.loads((stack.folder / ".doit-images/compose.yml/ci/build.json").read_text())
    assert (report["project"], report["status"], report["exit_status"]) == (stack.prefix, "passed", 0)
    images = {image["name"]: image for image in report["images"]}
    assert {name: (image["action"], image["status"]) for name, image in images.items()} == dict.fromkeys(
        ("base", "store", "web"), ("build", "done")
    )
    assert images["web"]["reasons"] == ["never built here"]
    assert images["web"]["image_id"] == stack.image_id(stack.ref("web"))

    again = stack.doit("ci_build")
    assert "3 images in" in again.stdout
    assert "3 of them fresh" in again.stdout
    report = json.loads((stack.folder / ".doit-images/compose.yml/ci/build.json").read_text())
    assert {image["status"] for image in report["images"]} == {"fresh"}


@pytest.mark.engine
def test_a_build_that_fails_says_which_image_and_goes_on_with_the_others(never_built: Stack) -> None:
    stack = never_built
    stack.write({"web/Dockerfile": "FROM base\nRUN echo no && exit 3\n"})
    done = stack.doit("ci_build")
    assert done.returncode != 0
    assert "web could not be built" in done.stderr
    assert "| web | **build failed** |" in done.stdout
    report = json.loads((stack.folder / ".doit-images/compose.yml/ci/build.json").read_text())
    assert (report["status"], {image["name"]: image["status"] for image in report["images"]}) == (
        "failed", {"base": "done", "store": "done", "web": "failed"},
    )  # fmt: skip

    stack.write({"base/Dockerfile": "FROM tst-busybox:1\nRUN exit 3\n"})
    stack.doit("ci_build")
    report = json.loads((stack.folder / ".doit-images/compose.yml/ci/build.json").read_text())
    assert {image["name"]: image["status"] for image in report["images"]} == {
        "base": "failed", "store": "not built", "web": "not built",
    }  # fmt: skip


def test_a_summary_survives_what_markdown_takes_for_its_own() -> None:
    image: dict[str, Any] = {
        "name": "web", "status": "done", "action": "build", "seconds": 1.0, "steps": 4, "cached_steps": 1,
        "size": 10_000_000, "reasons": ["arg `A` a|b\n<script>"],
    }  # fmt: skip
    row = build_summary({"project": "p", "status": "passed", "seconds": 2.0, "images": [image]}).splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "<script>" not in row


def build_of(image: str, run: str, started: float, waited: float = 0.0) -> Build:
    return Build(image, image, "f", "build", "done", (), started, 1.0, waited, run=run)


def test_only_the_builds_of_the_run_that_began_next_count() -> None:
    builds = [
        build_of("web", "later", 300), build_of("web", "ours", 120, waited=15), build_of("base", "ours", 106, waited=1),
        build_of("web", "before", 110, waited=20), build_of("web", "long ago", 1),
    ]  # fmt: skip
    assert {name: one.run for name, one in built_since(builds, 100).items()} == {"web": "ours", "base": "ours"}
    assert built_since(builds, 400) == {}
    assert built_since([], 0) == {}


def test_of_an_image_that_was_built_again_the_last_build_counts() -> None:
    moved = replace(build_of("web", "ours", 110, waited=5), status="moved")
    assert built_since([build_of("web", "ours", 120, waited=15), moved], 100)["web"].status == "done"


# ---- ci_test


def test_how_the_end_to_end_tests_are_run() -> None:
    assert pytest_argv(["-k", "login"], Path("/x/e2e.xml")) == [
        sys.executable, "-m", "pytest", "tests/e2e", "-p", "no:cacheprovider", "--junitxml=/x/e2e.xml", "-k", "login",
    ]  # fmt: skip


def test_where_the_services_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = {8005: "127.0.0.1:20001", 9: "127.0.0.1:2"}
    container = Container("id", "p-my-auth-1", "my-auth", "x", "sha256:1", "running", ports=ports)
    services = {"my-auth": Service("my-auth", "x", True, 1, {}, ports=(8005,))}
    monkeypatch.setattr(Compose, "services", lambda self: services)
    stack = EphemeralStack(Compose((), "p", {}), Waited({}, [container], 1.0))
    assert urls(stack) == {"MY_AUTH_URL": "http://127.0.0.1:20001"}


def test_the_summary_of_tests() -> None:
    junit = """<testsuites><testsuite tests="4" failures="1" errors="0" skipped="1" time="2.5">
        <testcase classname="tests.e2e.test_use" name="test_a"/>
        <testcase classname="tests.e2e.test_use" name="test_b[x|y]"><failure message="no"/></testcase>
        <testcase classname="tests.e2e.test_use" name="test_c"><skipped/></testcase>
        <testcase classname="tests.e2e.test_use" name="test_d"/>
        </testsuite></testsuites>"""
    assert test_summary(junit, 1, 12.0, [{}, {}]).splitlines() == [
        "## End-to-end tests: failed",
        "",
        "2 containers healthy after 12 s; 2 tests passed, 1 failed, 1 skipped in 2.5 s.",
        "",
        r"- **tests.e2e.test_use** test_b[x\|y]",
    ]


TRIAL = """
import sys, time
from pathlib import Path
from doit_images.core.base import commands
from doit_images.stack.bringup import Terms
from doit_images.stack.health import WaitLimits
from doit_images.stack.checkout import project_of
from doit_images.stack.ephemeral_stack import running
from doit_images.cli.process import current
from tasks.end_to_end import urls

commands.stop_on_signals()
with running(project_of(current()), Terms(current().events, WaitLimits(60, 60), Path(sys.argv[1]))) as one:
    print(one.compose.project, *urls(one).values(), one.outcome.healthy, flush=True)
    if len(sys.argv) > 2:
        time.sleep(600)
"""


def trial(stack: Stack, *words: str) -> subprocess.Popen[str]:
    environ = stack.env(XDG_CACHE_HOME=str(stack.folder / "cache"))
    argv = [sys.executable, "-c", TRIAL, str(stack.folder / "log"), *words]
    return subprocess.Popen(
        argv, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def started(running: subprocess.Popen[str]) -> str:
    """The project of a trial, once it is up."""
    assert running.stdout
    assert running.stderr
    line = running.stdout.readline()
    assert line, running.stderr.read()
    return line.split()[0]


def there(project: str) -> list[str]:
    """Everything that the engine holds of a project."""
    label = f"label=com.docker.compose.project={project}"
    kinds = (("ps", "--all", "--quiet"), ("network", "ls", "--quiet"), ("volume", "ls", "--quiet"))
    return [word for kind in kinds for word in docker(*kind, "--filter", label).stdout.split()]


@pytest.mark.engine
def test_a_trial_has_all_of_its_own_and_leaves_nothing(stack: Stack) -> None:
    stack.up()
    password = (stack.folder / ".env").read_text()
    ids = stack.ids()
    done = trial(stack)
    said, errors = done.communicate(timeout=patience())
    assert done.returncode == 0, errors
    project, url, well = said.split()
    assert well == "True"
    assert re.fullmatch(rf"{stack.prefix}-ci-[0-9a-f]{{8}}", project)
    assert re.fullmatch(r"http://127\.0\.0\.1:2\d{4}", url)
    assert there(project) == []
    assert stack.ids() == ids
    assert (stack.folder / ".env").read_text() == password


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_trial_that_is_stopped_takes_its_stack_along(stack: Stack, number: signal.Signals) -> None:
    assert stack.doit("build_optimized").returncode == 0
    running = trial(stack, "stay")
    project = started(running)
    assert there(project) != []
    running.send_signal(number)
    running.communicate(timeout=patience())
    assert running.returncode == 128 + number
    assert there(project) == []


@pytest.mark.engine
def test_what_a_killed_trial_left_the_next_one_removes_and_nothing_else(stack: Stack) -> None:
    assert stack.doit("build_optimized").returncode == 0
    alive, killed = trial(stack, "stay"), trial(stack, "stay")
    living, dead = started(alive), started(killed)
    try:
        killed.kill()
        killed.communicate()
        assert there(dead) != []
        here = there(living)
        third = trial(stack)
        _, errors = third.communicate(timeout=patience())
        assert third.returncode == 0, errors
        assert f"removing {dead}, which a killed run left behind" in errors
        assert there(dead) == []
        assert there(living) == here
    finally:
        alive.terminate()
        alive.communicate(timeout=patience())
    assert there(living) == []


WITH_EDGE = {"COMPOSE_PROFILES": "edge"}  # with the reverse proxy, which is tested there too


@pytest.fixture(scope="module")
def edge(engine: None) -> None:
    done = forked.run([sys.executable, "-m", "doit", "build_optimized:edge"], {**os.environ, **WITH_EDGE})
    assert done.returncode == 0, done.stderr


def ci_test(*words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "doit", "ci_test", "--", *words]
    env = {**os.environ, **WITH_EDGE}
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def project_of(errors: str) -> str:
    found = re.search(r"^(\S+-ci-[0-9a-f]{8}) is healthy after", errors, re.M)
    assert found, errors
    return found[1]


def has_passed(running: subprocess.Popen[str]) -> str:
    """The project of a run that passed, of which nothing is left and no secret was told."""
    said, errors = running.communicate()
    assert running.returncode == 0, errors
    assert said.startswith("## End-to-end tests: passed\n")
    assert ", 0 failed, 0 skipped in" in said
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "AUTH_SECRET"):
        assert name not in said + errors
    project = project_of(errors)
    assert there(project) == []
    return project


RANDOM, MORE = "any_request", "(killed_container and (auth or orchestrator))"


@pytest.mark.all
@pytest.mark.stack
def test_end_to_end_whatever_is_sent_and_twice_at_once(edge: None) -> None:
    """Requests at random through the running containers, and at the same time, of a second stack, the services are
    killed that are killed in other tests too."""
    both = ci_test("-k", RANDOM), ci_test("-k", MORE)
    assert len({has_passed(running) for running in both}) == 2


@pytest.mark.stack
def test_end_to_end(edge: None) -> None:
    """Everything but that."""
    most = ("-k", f"not ({RANDOM} or {MORE})")
    has_passed(ci_test(*most))
    left = ROOT / ".doit-images/docker-compose.optimized.yml/ci/e2e.xml"
    left.unlink()
    # What passed on just this is known, and its file is brought back; no stack is started.
    again = ci_test(*most)
    said, errors = again.communicate(timeout=patience())
    assert again.returncode == 0, errors
    assert said.startswith("## End-to-end tests: passed before\n")
    assert "is healthy" not in errors
    suite = next(ElementTree.parse(left).iter("testsuite"))
    assert (suite.get("failures"), int(suite.get("tests", 0)) > 10) == ("0", True)


FAILING = """
from doit_images.core.base import commands
from doit_images.cli.process import current
from tasks import end_to_end

commands.stop_on_signals()
end_to_end.run_tests(current(), ["-k", "unheard_of"])
"""


@pytest.mark.engine
def test_a_test_that_fails_keeps_the_logs_and_removes_the_stack(stack: Stack) -> None:
    assert stack.doit("build_optimized").returncode == 0
    failed = forked.run([sys.executable, "-c", FAILING], stack.env(AUTH_URL="http://127.0.0.1:1"))
    assert failed.returncode != 0
    assert "the end-to-end tests ended with status 5" in failed.stderr
    project = project_of(failed.stderr)
    logs = stack.folder / ".doit-images/compose.yml/ci/logs" / project
    assert {path.stem.rpartition("-")[0] for path in logs.iterdir()} == {"store", "web"}
    assert f"store of {stack.prefix}" in (logs / "store-1.log").read_text()
    assert there(project) == []


def test_the_workflow_uses_these_tasks_and_may_only_read() -> None:
    import yaml

    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {}, "each job says what it may do"
    jobs = [job for job in workflow["jobs"].values() if "steps" in job]
    assert all(job["permissions"] == {"contents": "read"} and "timeout-minutes" in job for job in jobs)
    steps = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    commands = [step for step in steps if not step.startswith("sudo apt-get")]  # what a test wants of the machine
    tasks = [f"./doitw {task}" for task in ("lint", "figures --stale", "test_unit", "ci_build", "ci_test")]
    assert commands == [*tasks[:2], ".ci/package", ".ci/run", *tasks[2:]]
    assert os.access(ROOT / "doitw", os.X_OK)
