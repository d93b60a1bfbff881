"""An engine that takes connections and answers nothing: each command says so in one sentence, and ends."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.building import log
from doit_images.core.engine import api
from tests.faults.conftest import Rounds
from tests.faults.daemon import Daemon
from tests.faults.project import SOON, Project, ended
from tests.waiting import comes, patience

pytestmark = pytest.mark.engine
# Pings: one before a plan; two while a build is silent, and those that what is left costs.
PATIENCE = 75
CLOCKS = f"""
import {api.__name__} as api, {log.__name__} as log
api._ALIVE_SECONDS, log.LOOK_SECONDS = 3.0, 2.0
"""


@pytest.fixture(scope="module")
def daemon(spare: TemporaryEngine) -> Iterator[Daemon]:
    one = Daemon(spare)
    yield one
    one.close()


def sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if "hangs: it accepts connections but did not answer" in line]


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


def test_each_command_says_so(built: Project, daemon: Daemon, rounds: Rounds) -> None:
    chosen = rounds.chance.sample(WORDS, len(WORDS))
    for number in rounds.of(2, len(WORDS)):
        built.clock = CLOCKS
        with daemon.hanging(), ended(built.begun(*chosen[number])) as doit:
            assert comes(lambda: doit.poll() is not None, PATIENCE), (chosen[number], built.output)
        assert doit.returncode != 0, chosen[number]
        assert sentences(built.output), (chosen[number], built.output)
        assert "Traceback" not in built.output, built.output
        assert comes(lambda: not built.processes(), SOON)
    built.clock = ""
    assert built.doit("build_optimized").returncode == 0
    built.assert_right()
    built.assert_clean()


def test_it_hangs_in_the_middle_of_a_build(built: Project, daemon: Daemon) -> None:
    built.edit("base")
    built.clock = CLOCKS
    path = built.folder / "base/Dockerfile"
    whole = path.read_text()
    path.write_text(whole.replace("sleep 0.3", "sleep 600"))
    with ended(built.begun()) as doit:
        assert comes(lambda: re.search(r"sleep 600", log_of(built)), 60), built.output
        with daemon.hanging():
            began = time.monotonic()
            assert comes(lambda: doit.poll() is not None, PATIENCE), built.output
            print(f"said after {time.monotonic() - began:.0f} s")
    assert doit.returncode != 0
    assert sentences(built.output), built.output
    assert "Traceback" not in built.output
    assert comes(lambda: not built.processes(), 5)
    path.write_text(whole)
    built.clock = ""
    assert built.doit("build_optimized").returncode == 0
    built.assert_right()
    built.assert_clean()


def log_of(project: Project) -> str:
    logs = list(project.folder.glob(".doit-images/*/logs/base.log"))
    return logs[0].read_text() if logs else ""


def test_one_that_only_takes_a_break_is_waited_for(project: Project, daemon: Daemon) -> None:
    project.edit("base")
    with ended(project.begun()) as doit:
        for _ in range(2):
            time.sleep(0.3)
            with daemon.hanging():
                time.sleep(1.5)
        assert comes(lambda: doit.poll() is not None, 60)
    assert doit.returncode == 0, project.output
    project.assert_right()


def test_a_build_that_takes_too_long_is_stopped(built: Project) -> None:
    path, long = built.folder / "right/Dockerfile", f"{patience(3):.0f}"
    whole = path.read_text()
    path.write_text(whole.replace("sleep 0.3", "sleep 600"))
    done = built.doit("-c", "build_optimized", BUILD_TIMEOUT=f"{long}s")
    assert done.returncode != 0
    said = rf"right was not built in {long}(\.0)? s, during .*sleep 600.*, so it was stopped"
    assert re.search(said, done.stderr), done.stderr
    assert "BUILD_TIMEOUT says how long a build may take" in done.stderr
    assert "1 failed (right)" in done.stderr
    assert comes(lambda: not built.processes(), SOON)
    path.write_text(whole)
    built.edit("right")
    assert built.doit("build_optimized", BUILD_TIMEOUT="10m").returncode == 0
    built.assert_right()
    built.assert_clean()
