"""An engine that takes connections and answers nothing: each command says so in one sentence, and ends."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.faults.conftest import Rounds
from tests.faults.daemon import Daemon
from tests.faults.project import SOON, Project, ended
from tests.waiting import comes

pytestmark = pytest.mark.engine
# Pings of 10 s: one before a plan; two while a build is silent, and those that what is left costs.
PATIENCE = 75


@pytest.fixture(scope="module")
def daemon(spare: TemporaryEngine) -> Iterator[Daemon]:
    one = Daemon(spare)
    yield one
    one.close()


def sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if "hangs: it takes connections, and said nothing" in line]


WORDS = [
    ["plan"],
    ["build_optimized"],
    ["ps_optimized"],
    ["down_optimized"],
    ["logs_optimized", "--tail", "1"],
    ["up_optimized"],
    ["cache_stats"],
    ["cache_prune", "--yes"],
    ["image_sizes"],
    ["doctor"],
    ["cache_export", "out"],
]


def test_each_command_says_so(project: Project, daemon: Daemon, rounds: Rounds) -> None:
    assert project.doit("build_optimized").returncode == 0
    chosen = rounds.chance.sample(WORDS, len(WORDS))
    for number in rounds.of(2, len(WORDS)):
        with daemon.hanging(), ended(project.begun(*chosen[number])) as doit:
            assert comes(lambda: doit.poll() is not None, PATIENCE), (chosen[number], project.output)
        assert doit.returncode != 0, chosen[number]
        assert sentences(project.output), (chosen[number], project.output)
        assert "Traceback" not in project.output, project.output
        assert comes(lambda: not project.processes(), SOON)
    assert project.doit("build_optimized").returncode == 0
    project.assert_right()
    project.assert_clean()


def test_it_hangs_in_the_middle_of_a_build(project: Project, daemon: Daemon) -> None:
    assert project.doit("build_optimized").returncode == 0
    project.edit("base")
    path = project.folder / "base/Dockerfile"
    whole = path.read_text()
    path.write_text(whole.replace("sleep 0.3", "sleep 600"))
    with ended(project.begun()) as doit:
        assert comes(lambda: re.search(r"sleep 600", log_of(project)), 60), project.output
        with daemon.hanging():
            began = time.monotonic()
            assert comes(lambda: doit.poll() is not None, PATIENCE), project.output
            print(f"said after {time.monotonic() - began:.0f} s")
    assert doit.returncode != 0
    assert sentences(project.output), project.output
    assert "Traceback" not in project.output
    assert comes(lambda: not project.processes(), 5)
    path.write_text(whole)
    assert project.doit("build_optimized").returncode == 0
    project.assert_right()
    project.assert_clean()


def log_of(project: Project) -> str:
    logs = list(project.folder.glob(".doit-images/*/logs/base.log"))
    return logs[0].read_text() if logs else ""


def test_one_that_only_takes_a_break_is_waited_for(project: Project, daemon: Daemon) -> None:
    project.edit("base")
    with ended(project.begun()) as doit:
        for _ in range(3):
            time.sleep(0.3)
            with daemon.hanging():
                time.sleep(2)
        assert comes(lambda: doit.poll() is not None, 60)
    assert doit.returncode == 0, project.output
    project.assert_right()


def test_a_build_that_takes_too_long_is_stopped(project: Project) -> None:
    path = project.folder / "right/Dockerfile"
    whole = path.read_text()
    path.write_text(whole.replace("sleep 0.3", "sleep 600"))
    done = project.doit("-c", "build_optimized", BUILD_TIMEOUT="12s")
    assert done.returncode != 0
    assert re.search(r"right was not built in 12 s, during .*sleep 600.*, so it was stopped", done.stderr), done.stderr
    assert "BUILD_TIMEOUT says how long a build may take" in done.stderr
    assert "3 built, 1 failed (right)" in done.stderr
    assert comes(lambda: not project.processes(), SOON)
    path.write_text(whole)
    assert project.doit("build_optimized", BUILD_TIMEOUT="10m").returncode == 0
    project.assert_right()
    project.assert_clean()
