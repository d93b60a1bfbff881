"""Many runs at once: each image is built once, the others wait, say for whom, and end right."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.faults.project import PARENTS, Project

pytestmark = pytest.mark.engine
RUNS = 8


def built(*projects: Project) -> list[str]:
    """The images that were built, as the histories tell."""
    found = [entry for one in projects for entry in json.loads(one.doit("history", "--json").stdout)]
    return sorted(entry["image"] for entry in found if entry["action"] == "build")


def at_once(projects: list[Project]) -> list[str]:
    """What each of these runs said, begun together."""
    runs = [
        subprocess.Popen(
            one.argv("build_optimized"), env=one.env(), cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
        )
        for one in projects
    ]
    said = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "\n".join(said)
    return said


def test_in_one_checkout_each_image_is_built_once(project: Project) -> None:
    for _ in range(2):
        before = len(built(project))
        project.edit("base", "left", "right", "leaf")
        said = at_once([project] * RUNS)
        assert "Traceback" not in "".join(said)
        assert built(project)[before:] or not before
        assert len(built(project)) - before == len(PARENTS)
        waited = [text for text in said if "waits for the run of" in text and str(project.folder) in text]
        assert waited, said
    project.assert_right()
    project.assert_clean()


def test_in_two_checkouts_each_image_is_built_once(project: Project, spare: TemporaryEngine, tmp_path: Path) -> None:
    other = Project(tmp_path / "other", spare, project.prefix)
    for _ in range(2):
        before = len(built(project, other))
        project.edit("base", "left", "right", "leaf")
        for name in PARENTS:
            shutil.copy(project.folder / name / "f", other.folder / name / "f")
        said = at_once([project, other] * (RUNS // 2))
        assert "Traceback" not in "".join(said)
        assert len(built(project, other)) - before == len(PARENTS)
    for one in (project, other):
        one.assert_right()
        one.assert_clean()


def test_two_checkouts_with_other_content_do_not_wait_for_each_other(
    project: Project, spare: TemporaryEngine, tmp_path: Path
) -> None:
    other = Project(tmp_path / "other", spare, project.prefix)
    project.edit("base", "left", "right", "leaf")
    said = at_once([project, other])
    assert "waits for" not in "".join(said)
    assert len(built(project, other)) == 2 * len(PARENTS)
