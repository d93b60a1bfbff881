"""Timings are taken in turns, and nothing that failed is ever one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import Timing
from doit_images.core.base.errors import UserError
from tests.conftest import ROOT


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_command_is_measured_with_all_that_it_wrote() -> None:
    ran = measure.run(python("import sys; print('data'); print('talk', file=sys.stderr); x = bytearray(50_000_000)"))
    assert (ran.stdout, ran.stderr) == ("data\n", "talk\n")
    assert ran.cpu > 0
    assert ran.seconds > 0


def test_the_peak_is_that_of_the_command() -> None:
    """Measured from a small process: Linux counts what there was before exec, and this one has run many tests."""
    program = (
        "import sys; from benchmarks import measure\n"
        "print(measure.run([sys.executable, '-c', 'x = bytearray(90_000_000)']).peak)"
    )
    said = subprocess.run(python(program), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 90_000_000 < int(said) < 200_000_000


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(UserError, match="status 3, so it is not measured") as caught:
        measure.run(python("import sys; print('what went wrong', file=sys.stderr); sys.exit(3)"))
    assert "what went wrong" in str(caught.value)


def test_a_command_that_is_killed_is_no_measurement() -> None:
    with pytest.raises(UserError, match="status -9"):
        measure.run(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))


def test_another_status_may_be_expected() -> None:
    assert measure.run(python("raise SystemExit(3)"), statuses=(3,)).stdout == ""
    with pytest.raises(UserError, match="status 0"):
        measure.run(python(""), statuses=(3,))


def test_a_command_that_is_not_there_is_said_so() -> None:
    with pytest.raises(UserError, match="the no-such-command command is not installed"):
        measure.run(["no-such-command"])


def test_environment_and_folder_are_those_that_were_asked_for(tmp_path: Path) -> None:
    ran = measure.run(
        python("import os; print(os.getcwd(), os.environ['GIVEN'])"), cwd=tmp_path, env={**os.environ, "GIVEN": "yes"}
    )
    assert ran.stdout.split() == [str(tmp_path), "yes"]


def test_cases_take_turns_and_no_one_always_comes_last() -> None:
    order: list[str] = []

    def case(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    told: list[str] = []
    found = measure.in_turns({"a": lambda: case("a", 1.0), "b": lambda: case("b", 2.0)}, 3, told.append)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": Timing((1.0, 1.0, 1.0)), "b": Timing((2.0, 2.0, 2.0))}
    assert told[0] == "1/3 a: 1.000 s"
    assert len(told) == 6


def test_a_round_in_which_something_failed_is_taken_again_whole() -> None:
    seconds = iter([1.0, None, 2.0, 3.0, 4.0, 5.0])

    def case() -> float:
        found = next(seconds)
        if found is None:
            raise UserError("the connection was dropped")
        return found

    told: list[str] = []
    found = measure.in_turns({"a": case, "b": case}, 2, told.append)
    assert found == {"a": Timing((2.0, 5.0)), "b": Timing((3.0, 4.0))}
    assert told[0] == "taken again (1 of 2), since something failed: the connection was dropped"


def test_what_goes_on_failing_is_tried_three_times() -> None:
    tries = []

    def case() -> float:
        tries.append(1)
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        measure.in_turns({"a": case}, 5)
    assert len(tries) == 3


def test_it_waits_until_the_machine_is_quiet_but_not_for_ever() -> None:
    loads = iter([3.0, 1.0, 0.4])
    slept: list[float] = []
    told: list[str] = []
    assert measure.wait_until_quiet(told.append, 300, lambda: next(loads), slept.append) == 0.4
    assert len(slept) == 2
    assert told == ["waiting for a quiet machine: the load is 3.00, not below 0.5; 5 min 00 s at most"]
    slept.clear()
    assert measure.wait_until_quiet(told.append, 20, lambda: 9.0, slept.append) == 9.0
    assert sum(slept) == 20
    assert told[-1] == "measuring all the same, at a load of 9.00"


def test_what_is_left_is_known_when_all_of_it_was_done_once() -> None:
    left = measure.TimeLeft()
    left.took("cold", 60)
    assert left.of(["cold", "code"]) == ""
    left.took("code", 2)
    assert left.of(["cold", "code", "code"]) == "; about 64 s left"
    assert left.of([]) == ""


def test_median_and_spread() -> None:
    timing = Timing((4.0, 1.0, 2.0))
    assert timing.median == 2.0
    assert timing.spread == 1.5
    assert timing.as_json() == {"median": 2.0, "min": 1.0, "max": 4.0, "spread": 1.5, "runs": 3}


@pytest.mark.engine
def test_the_machine_is_described_without_names_of_hosts_and_people() -> None:
    facts = measure.machine()
    assert facts["cpus"] == os.cpu_count()
    assert facts["engine"]
    assert facts["buildx"].lstrip("v")[0].isdigit()
    text = measure.in_words(facts) + str(facts)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
