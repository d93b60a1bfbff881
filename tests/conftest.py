"""What all tests share: a laboratory project on the real engine, and the rule that CI may skip nothing unsaid."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from benchmarks.newer_engine import newer_engine
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import lock, settings
from doit_images.core.base.errors import UserError
from doit_images.core.buildkit.progress import Progress
from doit_images.core.engine.client import Engine
from doit_images.stack import containers
from tasks.bases import base
from tests import forked, interruption, owners

ROOT = Path(__file__).resolve().parent.parent
# Tests of the services run inside their images, on Python 3.13 with what is installed there.
collect_ignore = ["services"]
# The end-to-end tests need a running stack: `doit ci_test` starts one, and test_ci.py tries that.
if "AUTH_URL" not in os.environ:
    collect_ignore.append("e2e")

# A machine that does other things meanwhile is no bug that an example found. `doit test_unit` takes the quick one:
# how many examples a test has there is a fifth of those that it has in the whole suite.
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=100)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
hypothesis.settings.load_profile("thorough")


def examples(times: float) -> hypothesis.settings:
    """So many times the examples of the profile in use."""
    usual = hypothesis.settings.default
    assert usual is not None
    return hypothesis.settings(max_examples=round(times * usual.max_examples))


# In CI a skip is a failure, unless it is for something that cannot be had on that machine.
_MAY_SKIP = (
    "this BuildKit has no",
    "moby/buildkit",
    "buildkitd",
    "no index of packages can be reached",
)


def pytest_configure(config: pytest.Config) -> None:
    if interruption.can_hear():
        config.pluginmanager.register(interruption.Interruption(config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: Any = yield
    if os.environ.get("FORBID_SKIPS") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in _MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"skipped although skips are forbidden here: {reason}"
    return report


# For what asks the docker command and its plugins alone: no engine has to answer.
needs_docker_command = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker command")


SECONDS = ROOT / "tests" / "seconds.json"
"""How long each file of tests took on two cores, in seconds; a run with ``KEEP_SECONDS`` set writes it."""
_KEEP_SECONDS = os.environ.pop("KEEP_SECONDS", "")  # not for a pytest that a test starts


def place(nodeid: str, seconds: Mapping[str, float]) -> float:
    """Where a test's file stands in a run: what begins last is what all workers wait for, so the longest come first,
    and before them those that were never measured."""
    return -seconds.get(_file(nodeid), math.inf)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def measured() -> dict[str, float]:
    """The seconds that are kept of each file, by its path below ``tests``."""
    return dict(json.loads(SECONDS.read_text())) if SECONDS.exists() else {}


# Files of tests that build a lot, and need none of the repository's own images: each of these gets `own_engine`, whose
# containers do not reach each other.
_ALONE = ("faults/test_projects.py", "stack/test_stack.py", "stack/test_stack_images.py")
_TALKING = "ci/test_test_image.py"  # its containers do
_BUILDING = ("ci/", "core/", "differential/", "pruning/", "share/", "ui/", *_ALONE)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before marks select: what asks for the engine is marked, what asks for the newer one only confirms what others
    show, and what needs the images of the stack gets them."""
    seconds = measured()
    # What the repository builds lies in the engine of all.
    functions = [item for item in items if isinstance(item, pytest.Function)]
    ours = (each for each in functions if each.get_closest_marker("stack") or "base_image" in each.fixturenames)
    of_all = {_file(item.nodeid) for item in ours} | {_TALKING}
    items.sort(key=lambda item: place(item.nodeid, seconds))
    for item in items:
        assert isinstance(item, pytest.Function)
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if "engine" in item.fixturenames and "engine" not in given:  # a parameter of that name is none
            item.add_marker("engine")
        if "newer" in item.fixturenames:
            item.add_marker("all")
        if item.get_closest_marker("stack"):
            item.fixturenames.insert(0, "stack_images")
        file = _file(item.nodeid)
        if item.get_closest_marker("engine") and file.startswith(_BUILDING) and file not in of_all:
            item.fixturenames.insert(0, "own_engine")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Beside the tests that took longest, where ``--durations`` asks for them, each file."""
    seconds: collections.Counter[str] = collections.Counter()
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[_file(report.nodeid)] += report.duration  # type: ignore[assignment]
    if config.option.durations and len(seconds) > 1:
        terminalreporter.section(f"seconds of each file, {sum(seconds.values()):.0f} together")
        told = [f"{count:7.1f} {name.removesuffix('.py'):29}" for name, count in seconds.most_common()]
        for at in range(0, len(told), 3):
            terminalreporter.write_line(" ".join(told[at : at + 3]))
    if _KEEP_SECONDS:
        kept = measured() | {name: round(count, 1) for name, count in seconds.items()}
        there = {name: count for name, count in sorted(kept.items()) if (SECONDS.parent / name).exists()}
        SECONDS.write_text(json.dumps(there, indent=1) + "\n")


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The laboratories are no checkouts of whoever runs the tests."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    del os.environ["XDG_STATE_HOME"]
    if before is not None:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def _no_locks_left() -> Iterator[None]:
    """Each engine has lock files of its own, and so many do the tests make. One that nobody holds is nobody's loss."""
    yield
    for path in [*Path("/tmp").glob("doit-images-*.lock"), *Path(tempfile.gettempdir()).glob("tst-*.lock")]:
        with contextlib.suppress(UserError, OSError), lock.try_exclusive(path) as ours:
            if ours:
                path.unlink()


class Lab:
    """A Compose project in a folder of its own, whose images nobody else uses and which vanish at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = owners.own()
        self.environ: dict[str, str] = {}
        self.nameless: set[str] = set()
        self.clock = ""
        """Python that sets clocks of a doit that is started: what never comes is waited for in less time."""

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).replace("PREFIX", self.prefix))

    def doit(self, *args: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
        argv, env = self.argv(*args), self.env(**environ)
        if argv[0] == sys.executable:  # else another program starts it, with fewer rights
            return forked.run(argv, env, cwd)
        return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)

    def start(self, *args: str, cwd: Path = ROOT, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*args),
            cwd=cwd,
            env=self.env(**environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def argv(self, *args: str) -> list[str]:
        if not self.clock:
            return [sys.executable, "-m", "doit", *args]
        code = f"{self.clock}\nimport runpy; runpy.run_module('doit', run_name='__main__', alter_sys=True)"
        return [sys.executable, "-c", code, *args]

    def env(self, **environ: str) -> dict[str, str]:
        mine = {"COMPOSE_FILE": str(self.folder / "compose.yml"), "NO_COLOR": "1"}
        return {**os.environ, **mine, **self.environ, **environ}

    def build(self, *args: str) -> dict[str, str]:
        """Run `doit build_optimized` and say how each image ended, as its record and the run's output tell."""
        done = self.doit("build_optimized", *args)
        assert done.returncode == 0, done.stderr
        return {
            line.split()[1]: line.split()[0]
            for line in done.stderr.splitlines()
            if line.split()[:1] and line.split()[0] in ("built", "retagged", "pulled")
        }

    def plan(self, *args: str, **environ: str) -> dict[str, dict[str, Any]]:
        done = self.doit("plan", "--json", *args, **environ)
        assert done.stdout, done.stderr
        return {one["name"]: one for one in json.loads(done.stdout)["images"]}

    def actions(self, **environ: str) -> dict[str, str]:
        return {name: one["action"] for name, one in self.plan(**environ).items()}

    def ref(self, name: str) -> str:
        return f"{self.prefix}/{name}:latest"

    def image_id(self, ref: str) -> str:
        done = docker("image", "inspect", "--format", "{{.Id}}", ref)
        return done.stdout.strip()

    def images(self) -> list[str]:
        listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={self.prefix}/*")
        return listed.stdout.split()

    def pulled(self) -> list[str]:
        """What came from a registry of the test's own, by digest where it has no tag."""
        form = "{{.Repository}} {{.Tag}} {{.Digest}}"
        listed = docker("image", "ls", "--digests", "--format", form, "--filter", f"reference=*/{self.prefix}/*")
        rows = (line.split() for line in listed.stdout.splitlines())
        return [f"{name}@{digest}" if tag == "<none>" else f"{name}:{tag}" for name, tag, digest in rows]

    def close(self) -> None:
        names = [*self.images(), *self.pulled(), *self.nameless]
        if names:
            docker("image", "rm", "--force", *names)


def no_build_ends_before(gate: Path) -> str:
    """For ``Lab.clock``: BuildKit may be done with an image, doit is not before this file is there."""
    return f"""
import os, time
from {Progress.__module__} import Progress
finish = Progress.finish
def gated(self):
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.05)
    return finish(self)
Progress.finish = gated
"""


def docker(*args: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *args], input=stdin, capture_output=True, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def file_in(image: str, path: str, folder: Path) -> str:
    """What a file of an image holds; the container does not run, for what one prints may get lost on a busy machine."""
    container = docker("create", image, "none").stdout.strip()
    copy = folder / f"copy-{uuid.uuid4().hex}"
    docker("cp", f"{container}:{path}", str(copy))
    docker("rm", "--volumes", container)
    text = copy.read_text()
    copy.unlink()
    return text


def printed(*words: str) -> str:
    """What a container prints, for the words after `docker run --rm`; it must print something, for a busy engine may
    lose it."""
    return next(filter(None, (docker("run", "--rm", *words).stdout for _ in range(3))), "")


def docker_environ() -> dict[str, str]:
    """What leads the docker command to the engine that is tested, and nothing else of the environment."""
    return {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "DOCKER_CONFIG") if name in os.environ}


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with BuildKit answers, or the test is skipped with that reason."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    if docker("version").returncode:
        pytest.skip("no Docker engine answers")
    owners.sweep()


@pytest.fixture(scope="session")
def stack_images(engine: None) -> None:
    """The images of this repository's stack, of its files as they are."""
    made("build_optimized")


@pytest.fixture(scope="session")
def base_image(engine: None) -> str:
    """The Debian-with-Python image that this repository's images stand on, as the engine calls it."""
    made("base_image")
    return base.name_here(settings.load())


def made(task: str) -> None:
    """Let this task of the repository have run; tests that run side by side wait for the first."""
    with lock.exclusive(Path(tempfile.gettempdir(), "tst-made.lock")):
        done = subprocess.run([sys.executable, "-m", "doit", task], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def lab(engine: None, tmp_path: Path) -> Iterator[Lab]:
    one = Lab(tmp_path)
    yield one
    one.close()


@pytest.fixture(scope="session")
def busybox(engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base image with a shell, made from Debian's busybox-static: builds with RUN need no registry."""
    binary = next((path for path in ("/usr/bin/busybox", "/bin/busybox") if Path(path).exists()), None)
    if binary is None:
        pytest.skip("there is no busybox: apt-get install busybox-static")
    folder = tmp_path_factory.mktemp("busybox")
    shutil.copy(binary, folder / "busybox")
    (folder / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "/bin"]\nENV PATH=/bin\n'
    )
    # Once for all workers of a run: a base that is given its name again while it is built on is built on once more.
    mark = tmp_path_factory.getbasetemp()
    mark = (mark.parent if "PYTEST_XDIST_WORKER" in os.environ else mark) / "busybox-made"
    # Of two that give the same name at once, containerd's store refuses one.
    with lock.exclusive(Path(tempfile.gettempdir(), "tst-busybox.lock")):
        if not mark.exists():
            done = docker("buildx", "build", "--quiet", "--tag", "tst-busybox:1", str(folder))
            assert done.returncode == 0, done.stderr
            mark.touch()
    return "tst-busybox:1"


@pytest.fixture(scope="session")
def _empty_engine(busybox: str) -> Iterator[Mapping[str, str]]:
    """What leads to an engine of this worker's own, with the same store; nothing where the one to be tested is named,
    or none can be started."""
    with contextlib.ExitStack() as stack:
        found: dict[str, str] = {}
        if "DOCKER_HOST" not in os.environ:
            with contextlib.suppress(UserError):
                containerd = Engine().uses_containerd_store()
                one = stack.enter_context(temporary_engine("tst-empty-", containerd_store=containerd, in_memory=True))
                one.load(busybox)
                found = {name: one.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONTEXT")}
        yield found


@pytest.fixture(scope="module")
def own_engine(_empty_engine: Mapping[str, str]) -> Iterator[None]:
    """For a file of tests that build much: the engine of all holds what everybody has ever built, and looks at all of
    that again and again; of what these leave in their own nothing stays."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _empty_engine.items():
            patch.setenv(name, value)
        vars(containers._local).clear()  # else what this process does itself is done with the engine of the file before
        yield
    vars(containers._local).clear()


@pytest.fixture(scope="session", params=[pytest.param("classic", marks=pytest.mark.all), "containerd"])
def newer(engine: None, request: pytest.FixtureRequest) -> Iterator[TemporaryEngine]:
    """The engine of Debian's testing suite with its own client, buildx and Compose, with either store."""
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(newer_engine("tst-newer-", containerd_store=request.param == "containerd"))
        except UserError as trouble:
            pytest.skip(f"Debian testing's engine cannot be had: {trouble}")
        yield one
