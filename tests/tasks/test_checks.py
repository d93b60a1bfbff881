"""What `doit lint`, `test_unit` and `lock` run; `doit test` stands in test_newer_engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doit.cmdparse import CmdOption, TaskParse

from tasks import checks
from tasks.lock import LOCKS, lock
from tests.conftest import ROOT, measured, place


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(checks, "run_tool", lambda argv, env=None: commands.append([*argv]))
    return commands


def test_unit_tests_build_nothing_and_take_what_needs_no_engine(ran: list[list[str]]) -> None:
    assert checks.run_unit_tests(["-x"], keyword="plan") is None
    (command,) = ran
    assert command[command.index("-m", 3) + 1] == "not engine and not stack and not browser and not faults"
    assert command[-3:] == ["-k", "plan", "-x"]
    assert checks.task_test_unit()["task_dep"] == ["_dev_environment"]
    assert "build_optimized" not in checks.task_test()["task_dep"]


@pytest.mark.parametrize("able", [True, False])
def test_the_lock_is_installed_by_uv_and_else_by_pip(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    ran: list[tuple[str, str]] = []

    def run(argv: list[str], env: object = None) -> str | None:
        file = argv[argv.index("--requirement") + 1]
        ran.append((argv[2], "".join(pins(Path(file))[:1]) if file.startswith("/") else file))
        return None if able or argv[2] == "pip" else "no such index"

    monkeypatch.setattr(checks, "run_tool", run)
    assert checks._install_locked() is None
    [uv] = [pin for pin in pins(ROOT / "requirements-dev.txt") if pin.startswith("uv==")]
    assert ran == [("pip", uv), ("uv", "requirements-dev.txt"), ("pip", "requirements-dev.txt")][: 2 if able else 3]


def test_the_longest_file_begins_first_and_before_it_what_was_never_measured() -> None:
    seconds = {"test_a.py": 2.0, "test_b.py": 30.0}
    files = ["tests/test_a.py::test_one", "tests/test_b.py::test_two", "tests/faults/test_new.py::test_three"]
    assert sorted(files, key=lambda file: place(file, seconds)) == [files[2], files[1], files[0]]


def test_what_was_measured_is_there() -> None:
    assert measured()
    assert set(measured()) <= {str(path.relative_to(ROOT / "tests")) for path in ROOT.glob("tests/**/test_*.py")}


@pytest.mark.parametrize("task", [checks.task_test, checks.task_test_unit])
def test_options_of_pytest_reach_it(task: Callable[[], dict[str, Any]]) -> None:
    parser = TaskParse([CmdOption(option) for option in task()["params"]])
    options, words = parser.parse(["-k", "plan and not bake", "--", "--lf", "tests/core/planning/test_plan.py"])
    assert (options["keyword"], words) == ("plan and not bake", ["--lf", "tests/core/planning/test_plan.py"])


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
    assert lock(upgrade=upgrade, packages=packages) is None
    assert [command[-1] for command in ran] == list(LOCKS)
    for command in ran:
        assert [word for word in command if word.startswith("--upgrade")] == words


def test_packages_without_upgrade_are_refused(ran: list[list[str]]) -> None:
    assert "doit lock --upgrade doit" in str(lock(upgrade=False, packages=["doit"]))
    assert not ran


def pins(lock: Path) -> list[str]:
    return [line.rstrip(" \\") for line in lock.read_text().splitlines() if "==" in line]


def test_what_is_locked_is_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To lock again changes nothing, where an index can be reached."""
    for name in (*LOCKS, *LOCKS.values()):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    if lock(upgrade=False, packages=[]):
        pytest.skip("no index of packages can be reached")
    for name in LOCKS.values():
        assert pins(tmp_path / name) == pins(ROOT / name), f"doit lock makes another {name}"
    assert "index-url" not in (tmp_path / "requirements-dev.txt").read_text()


def test_faults_get_the_time_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[list[str], str]] = []
    monkeypatch.setattr(checks, "run_tool", lambda argv, env: given.append((argv[1:], env["FAULTS_MINUTES"])))
    assert checks.run_faults(["-x"], minutes=3, keyword="kill") is None
    assert given == [(["-m", "pytest", "-m", "faults", "tests/faults", "-k", "kill", "-x"], "3")]


@pytest.mark.parametrize(
    ("failing", "status", "said"),
    [
        ("", 0, []),
        ("unsteady", 0, ["NOT STEADY: it failed among others, and passed without them"]),
        ("unsteady broken", 1, ["failed twice", "NOT STEADY: it failed among others, and passed without them"]),
        ("unsteady 1 2 3", 1, []),
    ],
)
def test_the_few_that_failed_among_all_run_once_more(
    failing: str, status: int, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "test_it.py").write_text(
        "import pathlib, pytest\n"
        "def test_steady():\n"
        "    with open('steady', 'a') as file: file.write('.')\n"
        f"@pytest.mark.parametrize('name', {failing.split()})\n"
        "def test_one(name):\n"
        "    again = pathlib.Path(name).exists()\n"
        "    pathlib.Path(name).touch()\n"
        "    assert again and name == 'unsteady'\n"
    )
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    words = ["-q", "-p", "xdist", "--numprocesses=1", "-c", os.devnull, "--rootdir=."]
    failed = checks._run_whole(words, {**os.environ, "CI": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert bool(failed) == bool(status)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("test: test_it.py")]
    assert [line.partition("]: ")[2] for line in lines] == said
    assert (tmp_path / "steady").read_text() == ".", "what passed is not run again"


@pytest.mark.parametrize(("given", "handed"), [(None, "true"), ("", "true"), ("yes", "yes")])
def test_the_command_of_ci_forbids_skips_whoever_starts_it(tmp_path: Path, given: str | None, handed: str) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    (tmp_path / "doitw").write_text('#!/bin/sh\necho "$* CI=$CI"\n')
    (tmp_path / "doitw").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "CI"} | ({} if given is None else {"CI": given})
    done = subprocess.run([tmp_path / ".ci/run"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"test --all CI={handed}\n"


def test_where_skips_are_forbidden_one_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_one(): pytest.skip('there is no docker command')\n"
        "@pytest.mark.skipif(True, reason='no Docker engine answers')\n"
        "def test_two(): pass\n"
        "def test_three(): pytest.skip('this BuildKit has no --parents')\n"
        "@pytest.mark.xfail\n"
        "def test_four(): assert False\n"
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    counts = []
    for forbid in ("true", ""):
        env = {**os.environ, "FORBID_SKIPS": forbid, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run([*argv, tmp_path], cwd=tmp_path, env=env, capture_output=True, text=True)
        counts.append(done.stdout.splitlines()[-1].partition(" in ")[0])
        why = "skipped although skips are forbidden here: Skipped: no Docker engine answers"
        assert (why in done.stdout) == bool(forbid)
    assert counts == ["1 failed, 1 skipped, 1 xfailed, 1 error", "3 skipped, 1 xfailed"]
