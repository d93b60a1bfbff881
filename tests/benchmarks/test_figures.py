"""Figures say when and at which commit they were measured, and which are older than the code that they measure."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import age, figures, load, measure, readme
from benchmarks.age import Figure
from benchmarks.measure import Timing
from benchmarks.results import Results
from doit_images.core.base.errors import UserError

MACHINE = {
    "date": "2026-11-26 01:10", "commit": "0712c11abc", "cpus": 2, "cpu": "a cpu", "memory_gb": 8.0,
    "load_average": [0.1, 0.2, 0.3], "system": "Linux 6 x86_64", "python": "3.13.1", "engine": "26.1",
    "storage": "overlay2", "buildx": "0.13.1", "compose": "2.26.1",
}  # fmt: skip


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, path: str) -> str:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with (folder / path).open("a") as file:
        file.write("a line\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", path)
    return git(folder, "rev-parse", "--short=10", "HEAD")


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which ``x`` measures ``doit_images/core/inputs``."""
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(age, "ROOT", tmp_path)
    monkeypatch.setattr(
        age, "FIGURES", {"x": Figure(("benchmarks/x.py", "doit_images/core/inputs"), ("benchmarks/x.py",))}
    )
    return tmp_path


def test_a_figure_is_old_when_what_it_measures_changed(history: Path) -> None:
    at = commit(history, "doit_images/core/inputs/tree.py")
    assert age.older_runs("x", [f"2026-11-26 01:10, {at}", f"2026-11-26 01:10, {at}+"]) == set()
    commit(history, "README.md")
    assert age.older_runs("x", [f"then, {at}"]) == set(), "which it does not measure"
    commit(history, "doit_images/core/inputs/resolver.py")
    assert age.older_runs("x", [f"then, {at}"]) == {f"then, {at}"}
    now = commit(history, "benchmarks/x.py")
    assert age.older_runs("x", [f"then, {at}", f"now, {now}"]) == {f"then, {at}"}
    assert age.older_runs("x", ["then, 1234567890", "then, ", ""]) == {"then, 1234567890", "then, ", ""}
    assert age.older_runs("x", [f"now, {now}, Engine 26.1", f"then, {at}, load 2"]) == {f"then, {at}, load 2"}


@pytest.mark.parametrize(
    ("content", "runs"),
    [
        ({"machine": {"date": "then", "commit": "1"}, "rows": [{"value": 1}]}, ["then, 1"]),
        ({"runs": {"then, 1": MACHINE}, "rows": [{"run": "then, 2"}], "timings": {}}, ["then, 1", "then, 2"]),
        (
            {"a/b": {"ours": 1, "run": "then, 1"}, "c/d": {"run": "then, 2, Engine 26"}},
            ["then, 1", "then, 2, Engine 26"],
        ),
        (
            {"tests": {"machine": {"date": "then", "commit": "1"}}, "all": {"a/b": {"run": "then, 2"}}},
            ["then, 1", "then, 2"],
        ),
    ],
)
def test_the_runs_of_every_kind_of_file_are_found(content: dict[str, Any], runs: list[str]) -> None:
    """Else a figure has no age."""
    assert age.runs_of(content) == runs


def test_every_kept_figure_has_a_run_and_a_commit() -> None:
    for path in sorted(age.HERE.glob("*.json")):
        runs = age.runs_of(json.loads(path.read_text()))
        assert runs, path.name
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d, [0-9a-f]{7,40}", run) for run in runs), path.name


def test_what_is_stale_says_why(history: Path) -> None:
    at = commit(history, "doit_images/core/inputs/tree.py")
    assert list(age.stale(history)) == [("x", "was never measured")]
    (history / "x.json").write_text(json.dumps({"runs": {f"then, {at}": MACHINE}, "rows": [], "timings": {}}))
    assert list(age.stale(history)) == []
    later = commit(history, "doit_images/core/inputs/tree.py")
    ((name, why),) = age.stale(history)
    assert name == "x"
    assert why.startswith(f"of then, {at}; what it measures last changed in {later[:7]}")
    assert why.endswith(" doit_images/core/inputs/tree.py")
    (history / "x.json").write_text(json.dumps({"a/b": {"run": f"now, {at}"}, "c/d": {"run": "then, 1234567890"}}))
    ((_, why),) = age.stale(history)
    assert why.startswith(f"of now, {at}; then, 1234567890 (no commit of this history); what it")


def test_every_file_of_figures_can_be_measured_again_and_what_it_measures_is_there() -> None:
    assert {path.stem for path in age.HERE.glob("*.json")} <= set(age.FIGURES)
    for figure in age.FIGURES.values():
        for path in figure.paths:
            assert (age.HERE.parent / path).exists(), path


def test_rows_that_are_kept_stay_under_the_run_that_measured_them(tmp_path: Path) -> None:
    script = tmp_path / "x.py"
    with Results(script, "X", "What.", machine=MACHINE) as first:
        first.timed("one", {"a": Timing((1.0, 2.0))}, 0.1)
        first.add("one", 1, "s", 2)
        first.add("two", 1, "s", 2)
    later = {**MACHINE, "date": "2026-11-27 02:20", "commit": "fedcba9876", "engine": "28.5"}
    with Results(script, "X", "What.", machine=later) as second:
        second.add("two", 3, "s", 2)
    kept = json.loads(script.with_suffix(".json").read_text())
    assert {row["what"]: row["run"] for row in kept["rows"]} == {
        "one": "2026-11-26 01:10, 0712c11abc",
        "two": "2026-11-27 02:20, fedcba9876",
    }
    assert {run: facts["engine"] for run, facts in kept["runs"].items()} == {
        "2026-11-26 01:10, 0712c11abc": "26.1",
        "2026-11-27 02:20, fedcba9876": "28.5",
    }
    text = script.with_suffix(".md").read_text()
    assert "| two | 3 s | ≤ 2 | **no** |  | 2026-11-27 02:20, fedcba9876 |" in text
    assert "| one | a | 1.500 s | 1.000 – 2.000 s | 2 | 2026-11-26 01:10, 0712c11abc |" in text


def test_each_engine_that_was_measured_with_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dates = iter(("2026-11-26 02:20", "2026-11-26 02:40"))
    monkeypatch.setattr(measure, "machine", lambda environ: {**MACHINE, "date": next(dates)})
    with Results(tmp_path / "x.py", "X", "", machine=MACHINE) as results:
        for what in ("one", "two"):
            results.on("here", {})
            results.add(what, 1, "s", 2)
    kept = json.loads((tmp_path / "x.json").read_text())
    assert list(kept["runs"]) == [row["run"] for row in kept["rows"]]


def test_a_run_that_breaks_off_keeps_what_it_measured(tmp_path: Path) -> None:
    def measuring() -> None:
        with Results(tmp_path / "x.py", "X", "", machine=MACHINE) as results:
            results.add("one", 1, "s", 2)
            raise UserError("the connection was dropped")

    with pytest.raises(UserError, match="dropped"):
        measuring()
    assert [row["what"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == ["one"]


def test_a_figure_that_comes_too_late_to_be_kept_is_an_error(tmp_path: Path) -> None:
    with Results(tmp_path / "x.py", "X", "", machine=MACHINE) as results:
        results.add("one", 1, "s", 2)
    with pytest.raises(RuntimeError, match="two was measured, and is not kept"):
        results.add("two", 1, "s", 2)


class Told:
    """A run of which only what it says is asked."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events = self

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_figures_are_said_or_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measured: list[str] = []

    def take(name: str) -> None:
        measured.append(name)
        if name == "cold":
            raise UserError("cold could not be measured")

    monkeypatch.setattr(figures, "stale", lambda: iter([("cold", "changed"), ("load", "was never measured")]))
    monkeypatch.setattr(figures, "measure", take)
    monkeypatch.setattr(readme, "write", lambda: measured.append("README"))
    monkeypatch.setattr(readme, "unmarked", lambda: iter(()))
    run: Any = Told()
    figures.refresh(run, [], only_say=True)
    assert measured == []
    assert "cold: changed" in capsys.readouterr().out
    with pytest.raises(UserError, match="cold could not be measured; all others were"):
        figures.refresh(run, [], only_say=False)
    assert measured == ["cold", "README", "load", "README"]
    monkeypatch.undo()
    with pytest.raises(UserError, match="memory_cutoff needs XQuAD"):
        figures.measure("memory_cutoff")
    with pytest.raises(UserError, match="no figures named 'x'"):
        figures.refresh(run, ["x"], only_say=True)


def test_who_asks_what_is_stale_fails_where_the_readme_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("README", "EVERY"):
        monkeypatch.setattr(readme, name, tmp_path / name)
        (tmp_path / name).write_text("a figure.\n")
    monkeypatch.setattr(figures, "stale", lambda: iter([]))
    monkeypatch.setattr(readme, "judged", lambda: "a figure.")
    monkeypatch.setattr(readme, "every", lambda: "another †.")
    run: Any = Told()
    with pytest.raises(UserError, match=r"shown without the mark .*\n.*/EVERY: another †\.") as refused:
        figures.refresh(run, [], only_say=True)
    assert "readme.py" in str(refused.value)
    (tmp_path / "EVERY").write_text("another †.\n")
    figures.refresh(run, [], only_say=True)


def test_the_machine_says_when_and_at_which_commit() -> None:
    facts = measure.machine()
    assert facts["date"][:2] == "20"
    assert facts["commit"] == measure.commit()


def test_no_percentile_of_few_requests_is_beyond_the_longest() -> None:
    few = load.figures("few", [0.1, 0.2, 0.3, 1.0], 2.0)
    assert few.p50 == 250
    assert few.p50 < few.p90 < few.p99 < few.longest == 1000
