"""The score of mutants: what was tried, what survived, and when that is too little."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import Score, noticed, report, score_of
from doit_images.core.base import commands
from doit_images.core.base.commands import Done
from tasks import ROOT, checks

CODES = {
    "a.x_f__mutmut_1": 1,
    "a.x_f__mutmut_2": 0,
    "a.x_f__mutmut_3": 33,
    "a.x_f__mutmut_4": None,
    "a.x_g__mutmut_1": 36,
}


def test_what_all_tests_passed_with_and_what_no_test_came_by_survived() -> None:
    """A mutant that makes a test take for ever was noticed; one that was not tried counts for nothing."""
    score = score_of("a", CODES)
    assert score == Score("a", 4, ("a.x_f__mutmut_2", "a.x_f__mutmut_3"))
    assert noticed([score, Score("b", 6, ())]) == 0.8


@pytest.fixture
def mutmut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What mutmut was asked; it seems to have ended as ``CODES`` says."""
    asked: list[list[str]] = []

    def run(argv: list[str], **_: object) -> Done:
        asked.append(argv[1:])
        if argv[0] == "git":
            return Done(0, b"kept\0gone\0", "", {})
        (tmp_path / ".doit-images/mutants/mutants/doit_images/core/planning").mkdir(parents=True, exist_ok=True)
        noted = tmp_path / ".doit-images/mutants/mutants/doit_images/core/planning/plan.py.meta"
        noted.write_text(
            json.dumps({"exit_code_by_key": {f"doit_images.core.planning.plan.{one}": CODES[one] for one in CODES}})
        )
        return Done(0, b"--- plan.py\n+++ plan.py\n@@ -1 +1 @@\n-a < b\n+a <= b\n", "", {})

    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(commands, "show", lambda argv, **more: run(argv).status)
    (tmp_path / "kept").write_text("kept")
    (tmp_path / ".doit-images/mutants").mkdir(parents=True)
    (tmp_path / ".doit-images/mutants/old").touch()
    return asked


def test_a_copy_is_changed_and_survivors_are_told_with_what_they_change(
    tmp_path: Path, mutmut: list[list[str]]
) -> None:
    scores = mutants.try_mutants(["doit_images.core.planning.plan"], 0)
    assert [score.module for score in scores] == ["doit_images.core.planning.plan"]
    assert sorted(path.name for path in (tmp_path / ".doit-images/mutants").iterdir()) == ["kept", "mutants"]
    assert mutmut[-1][2:] == ["doit_images.core.planning.plan.*"]
    lines = [*report(scores)]
    assert lines[0].split() == ["doit_images.core.planning.plan", "2", "of", "4", "noticed,", "50%"]
    assert lines[1] == "50.0% of 4 mutants were noticed"
    assert lines[2] == "doit_images.core.planning.plan.a.x_f__mutmut_2\n-a < b\n+a <= b"


def test_a_sample_is_the_same_each_time_and_of_the_modules_that_are_named(mutmut: list[list[str]]) -> None:
    for _ in range(2):
        mutants.try_mutants([], 3)
    assert len(mutmut[-1][2:]) == 3
    assert mutmut[-1] == mutmut[2]
    mutants.try_mutants(["doit_images.core.planning"], 10)
    assert len(mutmut[-1][2:]) == len(CODES)


def test_too_few_that_are_noticed_are_a_failure(mutmut: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert "the tests notice 50.0%, less than 90%" in str(checks.run_mutants([]))
    assert "50.0% of 4 mutants" in capsys.readouterr().out


def test_where_nothing_was_tried_nothing_is_measured(mutmut: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "_noted", lambda folder: iter([("a", {"a.x_f__mutmut_1": None})]))
    assert "mutmut tried nothing" in str(checks.run_mutants([]))


def test_every_test_that_is_said_to_kill_a_mutant_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/mutants.md").read_text()))
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 20
    assert named <= there


def test_what_mutmut_is_told_is_there() -> None:
    """Else it tries nothing, or runs no test, and says neither."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    judged = [f"{module.replace('.', '/')}.py" for module in mutants.JUDGED]
    for path in judged:
        assert (ROOT / path).is_file(), path
        assert path.split("/")[0] in told["source_paths"], path
        assert any(fnmatch.fnmatch(path, pattern) for pattern in told["only_mutate"]), path
    for path in (*told["source_paths"], *told["also_copy"], *told["pytest_add_cli_args_test_selection"]):
        assert (ROOT / path).exists(), path
