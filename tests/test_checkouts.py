"""Which checkouts use these images: written down, found again, forgotten when they are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.content.fingerprint import Ingredients
from tasks.images import checkouts, record
from tasks.project import write_json


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    checkouts.register.cache_clear()
    return tmp_path / "state/vllm-local-swarm/checkouts"


def checkout(tmp_path: Path, name: str, number: str) -> Path:
    """A project's folder with a record of one image."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "compose.yml").touch()
    folder = tmp_path / name / ".build/compose.yml"
    write_json(folder / "project.json", {"project": {"files": [str(tmp_path / name / "compose.yml")]}})
    one = record.Record("app", "shop/app:1", "build", number * 64, Ingredients(), {}, "sha256:0", 1, 1.0, 1.0)
    record.write(folder, one)
    checkouts.register(folder)
    return folder


def test_what_others_need_and_not_what_oneself_needs(tmp_path: Path) -> None:
    one, two = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    assert list(checkouts.needs(one)) == [(f"shop/app:in-{'2' * 16}", two)]
    assert list(checkouts.needs(two)) == [(f"shop/app:in-{'1' * 16}", one)]
    assert len(list(checkouts.needs(tmp_path))) == 2


def test_what_is_gone_is_forgotten(tmp_path: Path, state: Path) -> None:
    one, two = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    (tmp_path / "two/compose.yml").unlink()
    assert checkouts.gone(two)
    assert not checkouts.gone(one)
    assert list(checkouts.needs(one)) == []
    assert len(list(state.iterdir())) == 1


def test_a_registry_that_cannot_be_written_or_read_is_no_trouble(tmp_path: Path, state: Path) -> None:
    one = checkout(tmp_path, "one", "1")
    for path in state.iterdir():
        path.write_bytes(b"\xff\0")
    assert list(checkouts.needs(tmp_path)) == []
    checkouts.register.cache_clear()
    checkouts.register(one)
    assert len(list(checkouts.needs(tmp_path))) == 1, "what was damaged is written anew"
    for path in state.iterdir():
        path.unlink()
    state.rmdir()
    state.write_text("a file")
    checkouts.register.cache_clear()
    checkouts.register(one)
    assert list(checkouts.needs(tmp_path)) == []


def test_damaged_records_need_nothing(tmp_path: Path) -> None:
    one, two = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    (two / "images/app.json").write_text("{")
    (two / "project.json").write_text("[]")
    assert list(checkouts.needs(one)) == []
