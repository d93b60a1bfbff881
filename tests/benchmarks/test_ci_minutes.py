"""What CI costs over a history: counted from git alone, with tests that the project does not have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ci_minutes, measure
from benchmarks.ci_minutes import Counts, Seconds, Way
from doit_images.core.base.errors import UserError
from tests.ci.test_since import START, History
from tests.conftest import needs_docker_command

ONE = Seconds(nothing=10, edited=2, unchanged=0.5, test=55, end_to_end=130, plan=1)


def test_a_commit_costs_what_each_way_does_about_it() -> None:
    counts = Counts()
    counts.add({"a", "b"}, {"d"}, {"b", "c", "end-to-end"}, {"a", "d"}, {"a", "b", "c", "d"})
    counts.add(set(), set(), set(), set(), {"a"})
    assert counts.ways == {
        "everything": Way(nothing=5, tests=5, end_to_end=2, jobs=5),
        "cached": Way(edited=2, unchanged=3, tests=5, end_to_end=2, jobs=5),
        "filtered": Way(edited=1, unchanged=1, tests=2, end_to_end=1, jobs=2, missed=2),
        "planned": Way(edited=2, unchanged=1, tests=2, end_to_end=1, jobs=4, plans=2),
    }
    planned = counts.ways["planned"]
    assert planned.seconds(ONE) == 2 * 2 + 0.5 + 2 * 55 + 130 + 2
    assert planned.minutes(ONE) == 4 * 2 + 3 + 2, "each job is billed as whole minutes"


@needs_docker_command
def test_a_history_is_counted_from_git_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "app")
    project = json.loads(START["compose.yml"])
    project["services"]["web"]["volumes"] = ["./site:/site"]
    history.commit({**START, "compose.yml": json.dumps(project)})
    history.commit({"README.md": "2\n"})
    history.commit({"web/notes.md": "which is in the folder, and in no image\n"})
    history.commit({"base/f": "2\n"})
    history.commit({"site/index.html": "which is mounted\n"})
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    counts = ci_minutes.counted(history.folder, "compose.yml", 4)
    assert (counts.commits, len(counts.plans)) == (4, 4)
    assert counts.ways == {
        "everything": Way(nothing=12, tests=12, end_to_end=4, jobs=12),
        "cached": Way(edited=2, unchanged=10, tests=12, end_to_end=4, jobs=12),
        "filtered": Way(edited=2, unchanged=1, tests=3, end_to_end=2, jobs=3, missed=1),
        "planned": Way(edited=2, tests=2, end_to_end=2, jobs=2, plans=4),
    }


@needs_docker_command
def test_a_history_of_which_nothing_was_counted_is_not_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "app")
    history.commit(START)
    history.commit({"base/f": "2\n"})
    with pytest.raises(UserError, match="none of its commits could be counted"):
        ci_minutes.counted(history.folder, "another.yml", 1)


def test_the_table_says_whose_seconds_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ci_minutes, "KEPT", tmp_path / "ci_minutes.json")
    compared = {"after a code change": 1, "after a change of dependencies": 3, "nothing changed": 2}
    rows = [{"metric": metric, "documented": value} for metric, value in compared.items()]
    rows += [{"metric": "everything, from an empty cache", "documented": 20}]
    rows += [{"metric": f"{name}: size", "documented": 1} for name in ("a", "b")]
    (tmp_path / "compare_performance.json").write_text(
        json.dumps({"rows": rows, "machine": {**measure.machine(), "date": "that day"}})
    )
    counts = Counts()
    counts.add({"a"}, set(), {"a"}, {"a", "b"}, {"a", "b"})
    ci_minutes.keep("them", counts, {"test": 20, "end_to_end": 60})
    said = (tmp_path / "ci_minutes.md").read_text()
    assert "A build of an image is 10.0 s from nothing, 2.0 s after an edit, 1.00 s where nothing changed" in said
    assert "measured that day UTC" in said, "builds and tests need not be of one run"
    assert "| them | layer caching alone | 2 | 1 | 2 | 1 | 0 | 3 | 1.7 | 3 |" in said
    assert "| them | plan --at | 1 | 0 | 1 | 0 | 0 | 2 | 0.4 | 2 |" in said
