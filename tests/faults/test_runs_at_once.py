"""Many runs at once: each image is built once, the others wait, say for whom, and end right."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.engine.client import Engine
from tests.conftest import ROOT
from tests.faults.conftest import MINUTES
from tests.faults.project import PARENTS, Project

pytestmark = pytest.mark.engine
RUNS = 8
STAGES = 100  # of one build: an image has no more than 127 layers


def builds_of(*projects: Project) -> list[str]:
    """The images that were built, as the histories tell."""
    found = [entry for one in projects for entry in json.loads(one.doit("history", "--json").stdout)]
    return sorted(entry["image"] for entry in found if entry["action"] == "build")


def at_once(projects: list[Project], *words: str) -> list[str]:
    """What each of these runs said, begun together."""
    runs = [
        subprocess.Popen(
            one.argv(*(words or ("build_optimized",))), env=one.env(), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for one in projects
    ]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "\n".join(said)
    return said


def test_in_one_checkout_each_image_is_built_once(built: Project) -> None:
    before = len(builds_of(built))
    built.edit("base", "left", "right", "leaf")
    said = at_once([built] * RUNS)
    assert "Traceback" not in "".join(said)
    assert len(builds_of(built)) - before == len(PARENTS)
    waited = [text for text in said if "waits for the run of" in text and str(built.folder) in text]
    assert waited, said
    built.assert_right()
    built.assert_clean()


def test_in_two_checkouts_each_image_is_built_once(built: Project, spare: TemporaryEngine, tmp_path: Path) -> None:
    other = Project(tmp_path / "other", spare, built.prefix)
    before = len(builds_of(built, other))
    built.edit("base", "left", "right", "leaf")
    for name in PARENTS:
        shutil.copy(built.folder / name / "f", other.folder / name / "f")
    said = at_once([built, other] * (RUNS // 2))
    assert "Traceback" not in "".join(said)
    assert len(builds_of(built, other)) - before == len(PARENTS)
    for one in (built, other):
        one.assert_right()
        one.assert_clean()


def test_two_checkouts_with_other_content_do_not_wait_for_each_other(
    project: Project, spare: TemporaryEngine, tmp_path: Path
) -> None:
    other = Project(tmp_path / "other", spare, project.prefix)
    project.edit("base", "left", "right", "leaf")
    said = at_once([project, other])
    assert "waits for" not in "".join(said)
    assert len(builds_of(project, other)) == 2 * len(PARENTS)


def fill_cache(project: Project, folder: Path, records: int) -> None:
    """Let the engine's build cache hold so many records more: one for each stage, and one for each copy of a stage."""
    for begin in range(0, records, 2 * STAGES):
        names = [f"s{number}" for number in range(begin, min(begin + 2 * STAGES, records), 2)]
        stages = [f"FROM scratch AS {name}\nCOPY <<{name} /{name}\n{project.id}\n{name}\n" for name in names]
        whole = [f"COPY --from={name} /{name} /\n" for name in names]
        (folder / "Dockerfile").write_text("".join([*stages, "FROM scratch\n", *whole]))
        project.docker("buildx", "build", "--quiet", str(folder))


def test_a_large_cache_is_pruned_by_two_runs_at_once(project: Project, tmp_path: Path) -> None:
    """With 1,232 records, one of two gave up after a minute; with 1,500, five minutes were not enough for both."""
    records = 1_300 if MINUTES else 60
    engine, folder = Engine(project.engine.address), tmp_path / "many"
    folder.mkdir()
    fill_cache(project, folder, records)
    assert len(engine.build_cache()) >= records
    began = time.monotonic()
    said = at_once([project, project], "cache_prune", "--all", "--yes")
    print(f"{records} records: {time.monotonic() - began:.0f} s")
    assert "Traceback" not in "".join(said)
    assert len([text for text in said if re.search("removed|nothing to prune", text)]) == 2, said
    assert len(engine.build_cache()) < records / 10, "what no image is made of"
    project.edit("base")
    assert set(project.build()) == set(PARENTS)
    project.assert_right()
    project.assert_clean()
