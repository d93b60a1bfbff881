"""Which checkouts use these images: written down, found again, forgotten when they are gone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from doit_images.core.base.checked_json import remember
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.core.planning import checkouts, record
from tests.conftest import Lab


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    checkouts.register.cache_clear()
    return tmp_path / "state/doit-images/checkouts"


def checkout(tmp_path: Path, name: str, number: str) -> Path:
    """A project's folder with a record of one image."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "compose.yml").touch()
    folder = tmp_path / name / ".doit-images/compose.yml"
    remember(folder / "project.json", {"project": {"files": [str(tmp_path / name / "compose.yml")]}})
    one = record.Record("app", "shop/app:1", "build", number * 64, BuildInputs(), {}, "sha256:0", 1, 1.0, 1.0)
    record.write(folder, one)
    checkouts.register(folder)
    return folder


def test_what_others_need_and_not_what_oneself_needs(tmp_path: Path) -> None:
    one, two = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    assert list(checkouts.needs(one)) == [(f"shop/app:in-{'2' * 16}", two)]
    assert list(checkouts.needs(two)) == [(f"shop/app:in-{'1' * 16}", one)]
    assert len(list(checkouts.needs(tmp_path))) == 2


def wait(state: Path, days: float) -> None:
    """As if all was written down so many days ago."""
    for path in state.iterdir():
        os.utime(path, (time.time() - days * 86400,) * 2)
    checkouts.register.cache_clear()


def test_what_is_gone_for_a_moment_is_still_needed(tmp_path: Path, state: Path) -> None:
    """``git stash`` and ``git checkout`` take a Compose file away and bring it back."""
    one, two = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    (tmp_path / "two/compose.yml").unlink()
    assert checkouts.gone(two)
    assert not checkouts.gone(one)
    wait(state, 6)
    assert list(checkouts.needs(one)) == [(f"shop/app:in-{'2' * 16}", two)]


def test_where_no_file_can_be_nothing_is_gone(tmp_path: Path) -> None:
    for path in ("/" + "a" * 300, "/a\0b"):
        remember(tmp_path / "project.json", {"project": {"files": [path]}})
        assert not checkouts.gone(tmp_path)


@pytest.mark.parametrize("what", ["two/compose.yml", "two"])
def test_what_is_gone_for_long_is_forgotten(tmp_path: Path, state: Path, what: str) -> None:
    one, two = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    (tmp_path / what).rename(tmp_path / "elsewhere")
    wait(state, 8)
    checkouts.register(one)
    assert list(checkouts.needs(one)) == []
    assert [os.fsdecode(path.read_bytes()) for path in state.iterdir()] == [str(one)]
    (tmp_path / "elsewhere").rename(tmp_path / what)
    checkouts.register(two)
    assert len(list(checkouts.needs(one))) == 1, "it came back"


def test_what_is_there_is_never_forgotten(tmp_path: Path, state: Path) -> None:
    one, _ = checkout(tmp_path, "one", "1"), checkout(tmp_path, "two", "2")
    wait(state, 365)
    assert len(list(checkouts.needs(one))) == 1


def test_it_is_written_down_at_most_once_a_day(tmp_path: Path, state: Path) -> None:
    one = checkout(tmp_path, "one", "1")
    [path] = state.iterdir()
    for days, written in ((0.9, False), (1.1, True)):
        wait(state, days)
        before = path.stat().st_mtime
        checkouts.register(one)
        assert (path.stat().st_mtime > before) is written


@pytest.mark.engine
def test_a_run_with_nothing_to_do_is_written_down(lab: Lab, state: Path) -> None:
    compose = "services: {app: {image: PREFIX/app, build: .}}\n"
    lab.write({"compose.yml": compose, "Dockerfile": "FROM scratch\nCOPY f /\n", "f": "PREFIX"})
    lab.build()
    for path in state.iterdir():
        path.unlink()
    assert lab.build() == {}
    assert [os.fsdecode(path.read_bytes()) for path in state.iterdir()] == [
        str(lab.folder / ".doit-images/compose.yml")
    ]


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
