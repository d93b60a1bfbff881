"""A run is killed at any moment: nothing of it lives on, and the next run is right and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from itertools import product

import pytest

from tests.faults.conftest import Rounds
from tests.faults.project import PARENTS, SOON, Project, ended
from tests.waiting import comes

pytestmark = pytest.mark.engine
SIGNALS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]


def is_right_after(project: Project) -> None:
    done = project.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    project.assert_right()
    project.assert_clean()


def some(rounds: Rounds) -> list[str]:
    return rounds.chance.sample(list(PARENTS), rounds.chance.choice([1, 2]))


def _ways() -> Iterator[object]:
    """Each signal once, in the way that it mostly comes; with `--all` each of them to both, at two times."""
    mostly = {(signal.SIGKILL, "doit alone"), (signal.SIGINT, "the whole group"), (signal.SIGTERM, "doit alone")}
    for number, whom, time_of_it in product(SIGNALS, ("the whole group", "doit alone"), ("one", "another")):
        usual = time_of_it == "one" and (number, whom) in mostly
        yield pytest.param(number, whom, time_of_it, marks=[] if usual else pytest.mark.all)


@pytest.mark.parametrize(("number", "whom", "time_of_it"), list(_ways()))
def test_a_run_is_killed(built: Project, rounds: Rounds, number: signal.Signals, whom: str, time_of_it: str) -> None:
    rounds.chance.seed(f"{rounds.seed} {number} {whom} {time_of_it}")
    for count in rounds.of(1, 200):
        built.edit(*some(rounds))
        with ended(built.started(as_doitw_does(built, "build_optimized"))) as doit:
            time.sleep(rounds.chance.uniform(0, 2.5))
            if doit.poll() is not None:
                rounds.missed()
                continue
            (os.kill if whom == "doit alone" else os.killpg)(doit.pid, number)
            began = time.monotonic()
            assert comes(lambda: doit.poll() is not None, SOON), "doit does not end"
            assert comes(lambda: not built.processes(), SOON), (count, built.processes())
            rounds.took.append(time.monotonic() - began)
            assert "Traceback" not in built.output, built.output
        is_right_after(built)


@pytest.mark.parametrize("number", [signal.SIGKILL, *(pytest.param(one, marks=pytest.mark.all) for one in SIGNALS[1:])])
def test_one_build_is_killed(built: Project, rounds: Rounds, number: signal.Signals) -> None:
    rounds.chance.seed(f"{rounds.seed} {number}")
    for _ in rounds.of(1, 200):
        built.edit(*some(rounds))
        with ended(built.begun()) as doit:
            comes(lambda: builds(built) or doit.poll() is not None, 10)
            time.sleep(rounds.chance.uniform(0, 0.5))
            try:
                os.kill(builds(built)[0], number)
            except (IndexError, ProcessLookupError):
                rounds.missed()
            assert comes(lambda: doit.poll() is not None, 60), "doit does not end"
            assert comes(lambda: not built.processes(), SOON)
            assert "Traceback" not in built.output, built.output
        is_right_after(built)


def builds(project: Project) -> list[int]:
    """The processes of buildx that build an image."""
    return [pid for pid, argv in project.processes().items() if re.search(r"buildx build .*--iidfile", argv)]


def as_doitw_does(project: Project, *args: str) -> list[str]:
    """Doit, which is silent when it is interrupted while Python starts, however long that takes."""
    return ["env", "--block-signal=INT", *project.argv(*args)]


def test_an_interrupt_while_python_starts_is_silent(project: Project, rounds: Rounds) -> None:
    for count in rounds.of(3, 200):
        with ended(project.started(as_doitw_does(project, "plan"))) as doit:
            time.sleep(0.3 * rounds.chance.random() if count else 0)
            doit.send_signal(signal.SIGINT)
            assert comes(lambda: doit.poll() is not None, 20)
        assert "Traceback" not in project.output, project.output
        assert comes(lambda: not project.processes(), SOON)
        assert project.actions() == dict.fromkeys(PARENTS, "build")
        project.assert_clean()
