"""An engine that is stopped, killed in the middle of a build, replaced, locked away, or whose disk is full."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.conftest import ROOT
from tests.faults.conftest import Rounds
from tests.faults.daemon import Daemon
from tests.faults.project import BUSYBOX, PARENTS, Project, ended
from tests.waiting import comes

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def daemon(spare: TemporaryEngine) -> Iterator[Daemon]:
    one = Daemon(spare)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def running(daemon: Daemon) -> Iterator[None]:
    """Whatever a test does, the next one has an engine with the base."""
    yield
    if not daemon.answers():
        daemon.start()
        daemon.engine.load(BUSYBOX)


def is_right_after(project: Project) -> None:
    done = project.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    project.assert_right()
    project.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.all)])
def test_it_ends_in_the_middle_of_a_build_and_comes_back(
    built: Project, daemon: Daemon, rounds: Rounds, number: signal.Signals
) -> None:
    for _ in rounds.of(1, 60):
        built.edit("base", "right")
        with ended(built.begun()) as doit:
            time.sleep(rounds.chance.uniform(0.2, 2))
            daemon.end(number)
            assert comes(lambda: doit.poll() is not None, 60), built.output
        assert "Traceback" not in built.output, built.output
        assert comes(lambda: not built.processes(), 5)
        daemon.start()
        is_right_after(built)


def test_one_that_is_not_there_is_said_in_a_sentence(built: Project, daemon: Daemon) -> None:
    daemon.end()
    for words in (["plan"], ["build_optimized"], ["doctor"], ["cache_stats"], ["ps_optimized"], ["up_optimized"]):
        done = built.doit(*words)
        said = done.stdout + done.stderr
        assert done.returncode != 0, words
        assert f"no Docker engine answers at {daemon.engine.address}" in said, said
        assert "Traceback" not in said
    listed = built.doit("list")
    assert listed.returncode == 0
    daemon.start()
    assert built.build() == {}
    built.assert_right()


def test_one_with_other_images_builds_what_it_has_not(built: Project, daemon: Daemon, tmp_path: Path) -> None:
    daemon.end()
    daemon.start(data=daemon.folder / "other-data")
    try:
        done = built.doit("build_optimized")
        assert done.returncode != 0
        assert BUSYBOX in done.stderr
        daemon.engine.load(BUSYBOX)
        assert built.actions() == dict.fromkeys(PARENTS, "build")
        assert built.build() == dict.fromkeys(PARENTS, "built")
        built.assert_right()
    finally:
        daemon.end()
        daemon.start()
    assert built.build() == {}, "the first one has it all as it was"
    built.assert_right()


def test_another_engine_by_variable_and_by_context(built: Project, daemon: Daemon, tmp_path: Path) -> None:
    """What is fresh is said of the engine that is asked now, not of the last one."""
    away = {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    assert "no Docker engine answers" in built.doit("plan", **away).stderr
    assert built.actions() == dict.fromkeys(PARENTS, "fresh")
    contexts = tmp_path / "config"
    contexts.mkdir()
    environ = {**built.env(DOCKER_CONFIG=str(contexts)), "DOCKER_HOST": ""}
    words = ["docker", "context", "create", "spare", "--docker", f"host={daemon.engine.address}"]
    subprocess.run(words, env=environ, check=True, capture_output=True)
    by_context = {"DOCKER_HOST": "", "DOCKER_CONFIG": str(contexts), "DOCKER_CONTEXT": "spare"}
    assert built.actions(**by_context) == dict.fromkeys(PARENTS, "fresh")
    gone = built.doit("plan", **{**by_context, "DOCKER_CONTEXT": "no-such"})
    assert "Traceback" not in gone.stderr


def test_a_socket_that_others_may_not_use_is_a_sentence(project: Project, daemon: Daemon) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    able = subprocess.run([*nobody, sys.executable, "-c", "import doit"], capture_output=True, cwd=ROOT)
    if able.returncode:
        pytest.skip(f"this Python is not one that another user can run: {able.stderr.decode().strip()[-200:]}")
    folder = daemon.folder
    before, within = folder.stat().st_mode, Path(daemon.engine.address.removeprefix("unix://"))
    shutil.copytree(project.folder, "/tmp/" + project.prefix)
    copy = Path("/tmp") / project.prefix
    for path in (copy, *copy.rglob("*")):
        os.chown(path, 65534, 65534)
    folder.chmod(0o755)
    within.chmod(0o600)
    try:
        environ = project.env(COMPOSE_FILE=f"{copy}/compose.yml", HOME=str(copy), TMPDIR="/tmp", XDG_STATE_HOME="")
        done = subprocess.run([*nobody, *project.argv("plan")], env=environ, cwd=ROOT, capture_output=True, text=True)
    finally:
        folder.chmod(before & 0o7777)
        within.chmod(0o660)
        shutil.rmtree(copy)
    assert done.returncode != 0
    assert "Permission denied" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.fixture
def small_disk(daemon: Daemon) -> Iterator[Path]:
    """An engine whose disk holds 48 MB."""
    place = daemon.folder / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", place], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    daemon.end()
    daemon.start(data=place / "data")
    daemon.engine.load(BUSYBOX)
    yield place
    if daemon.answers():
        daemon.end()
    while place.is_mount() and not subprocess.run(["umount", "--recursive", place], capture_output=True).returncode:
        pass
    daemon.start()


def test_the_disk_of_the_engine_is_full(project: Project, small_disk: Path) -> None:
    path = project.folder / "left/Dockerfile"
    whole = path.read_text()
    path.write_text(whole + "RUN dd if=/dev/zero of=/much bs=1M count=64\n")
    done = project.doit("-c", "build_optimized")
    assert done.returncode != 0
    assert "No space left on device" in done.stderr or "no space left on device" in done.stderr, done.stderr
    assert "the disk is full" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    path.write_text(whole)
    is_right_after(project)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 8 MB."""
    place = tmp_path / "full"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("what", ["the project's", pytest.param("that of temporary files", marks=pytest.mark.all)])
def test_our_disk_is_full(built: Project, full_disk: Path, what: str) -> None:
    if what == "the project's":
        before = built.folder
        shutil.copytree(before, full_disk / "project")
        built.folder = full_disk / "project"
        built.environ["COMPOSE_FILE"] = f"{built.folder}/compose.yml"
    else:
        built.environ["TMPDIR"] = str(full_disk)
    built.edit("left")
    filler = full_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for words in (["plan"], ["plan", "--json"], ["build_optimized"], ["doctor"], ["history"]):
        done = built.doit(*words)
        assert "Traceback" not in done.stderr + done.stdout, (words, done.stderr)
    filler.unlink()
    done = built.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    assert built.actions() == dict.fromkeys(PARENTS, "fresh")
    content = json.loads(built.doit("plan", "--json").stdout)
    assert content["images"]
