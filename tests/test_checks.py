"""What `doit lint`, `test_unit` and `lock` run; `doit test` stands in test_newer_engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doit.cmdparse import CmdOption, TaskParse

from tasks.cli import checks
from tasks.cli.lock import LOCKS, lock
from tests.conftest import ROOT


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(checks, "run_tool", lambda argv, env=None: commands.append([*argv]))
    return commands


def test_unit_tests_build_nothing_and_take_what_needs_no_engine(ran: list[list[str]]) -> None:
    assert checks.run_unit_tests(["-x"], keyword="plan") is None
    (command,) = ran
    assert command[command.index("-m", 3) + 1] == "not engine and not stack and not browser"
    assert command[-3:] == ["-k", "plan", "-x"]
    assert checks.task_test_unit()["task_dep"] == ["_dev_environment"]
    assert "build_optimized" not in checks.task_test()["task_dep"]


@pytest.mark.parametrize("task", [checks.task_test, checks.task_test_unit])
def test_options_of_pytest_reach_it(task: Callable[[], dict[str, Any]]) -> None:
    parser = TaskParse([CmdOption(option) for option in task()["params"]])
    options, words = parser.parse(["-k", "plan and not bake", "--", "--lf", "tests/test_plan.py"])
    assert (options["keyword"], words) == ("plan and not bake", ["--lf", "tests/test_plan.py"])


def test_helpers_are_not_listed_and_every_listed_task_says_what_it_does() -> None:
    done = subprocess.run([sys.executable, "-m", "doit", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"lint", "lock", "test", "test_unit"} <= listed
    assert not [name for name in listed if name.startswith("_") or "env" in name]


@pytest.mark.parametrize(
    ("upgrade", "packages", "words"),
    [
        (False, [], []),
        (True, [], ["--upgrade"]),
        (True, ["doit", "rich"], ["--upgrade-package=doit", "--upgrade-package=rich"]),
    ],
)
def test_locks_are_upgraded_only_where_that_is_asked(
    ran: list[list[str]], upgrade: bool, packages: list[str], words: list[str]
) -> None:
    assert lock(upgrade, packages) is None
    assert [command[-1] for command in ran] == list(LOCKS)
    for command in ran:
        assert [word for word in command if word.startswith("--upgrade")] == words


def test_packages_without_upgrade_are_refused(ran: list[list[str]]) -> None:
    assert "doit lock --upgrade doit" in str(lock(False, ["doit"]))
    assert not ran


def pins(lock: Path) -> list[str]:
    return [line.rstrip(" \\") for line in lock.read_text().splitlines() if "==" in line]


def test_what_is_locked_is_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To lock again changes nothing, where an index can be reached."""
    for name in (*LOCKS, *LOCKS.values()):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    if lock(False, []):
        pytest.skip("no index of packages can be reached")
    for name in LOCKS.values():
        assert pins(tmp_path / name) == pins(ROOT / name), f"doit lock makes another {name}"
    assert "index-url" not in (tmp_path / "requirements-dev.txt").read_text()


def test_faults_get_the_time_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[list[str], str]] = []
    monkeypatch.setattr(checks, "run_tool", lambda argv, env: given.append((argv[1:], env["FAULTS_MINUTES"])))
    assert checks.run_faults(["-x"], minutes=3, keyword="kill") is None
    assert given == [(["-m", "pytest", "-m", "faults", "tests/faults", "-k", "kill", "-x"], "3")]
