"""What doit would do for each file and each creator of a task, and does not; each test fails where that is needless."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from doit import cmd_base, dependency, loader
from doit.task import dict_to_task

import doit_images
from doit_images.cli import doit_memory
from doit_images.cli.doit_memory import Codec


@pytest.mark.parametrize(("meta", "status"), [({"image": "app"}, "up-to-date"), (None, "run")])
def test_doit_compares_the_files_of_tasks_but_not_those_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: Any, status: str
) -> None:
    monkeypatch.setattr(cmd_base, "Dependency", cmd_base.Dependency)
    doit_memory.install()
    path = tmp_path / "file"
    path.write_text("a")
    task = dict_to_task({"name": "t", "actions": [], "file_dep": [str(path)], "uptodate": [True], "meta": meta})
    known = cmd_base.Dependency(None, str(tmp_path / "db"), checker_cls=dependency.TimestampChecker, codec_cls=Codec)
    known.save_success(task)
    assert known.get_status(task, {}).status == "up-to-date"
    os.utime(path, (1, 1))
    assert known.get_status(task, {}).status == status
    assert bool(known.backend.get("t", str(path))) is not bool(meta)
    assert task.file_dep == {str(path)}


def test_no_creator_of_a_task_is_tokenized_for_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    find = inspect.getsourcelines
    monkeypatch.setattr(inspect, "getsourcelines", lambda of: asked.append(of) or find(of))
    names = doit_images.tasks()
    monkeypatch.setattr(inspect, "getblock", lambda lines: pytest.fail("its lines were read"))
    found = loader._get_task_creators(names, ())
    assert {line for _, _, line in found} == {0}
    assert asked == [creator for _, creator, _ in found], "doit looks for no lines: catalogue.without_lines is needless"
