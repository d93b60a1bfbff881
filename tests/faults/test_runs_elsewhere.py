"""Runs where something usual is missing, or the clock is wrong."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.project import PARENTS, Project

pytestmark = pytest.mark.engine
WORDS = (["plan"], ["build_optimized"], ["history"], ["cache_stats"], ["doctor"])


@pytest.mark.parametrize(
    "what", ["HOME", "HOME, which is not a folder", "TMPDIR, which is not a folder", "TERM and LANG"]
)
def test_a_variable_is_missing_or_wrong(built: Project, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name, _, wrong = what.partition(", ")
    for variable in name.split(" and "):
        built.environ.pop(variable, None)
        monkeypatch.delenv(variable, raising=False)
    if wrong:
        built.environ[name] = "/no/such/folder"
    built.edit("leaf")
    for words in WORDS:
        done = built.doit(*words)
        assert "Traceback" not in done.stderr + done.stdout, (words, done.stderr)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    built.environ["TMPDIR"] = str(built.scratch)
    built.assert_right()
    built.assert_clean()


def test_git_is_missing(built: Project, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for path in Path(folder).glob("*"):
            if path.name != "git" and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    assert not shutil.which("git", path=str(programs))
    built.environ["PATH"] = str(programs)
    built.edit("leaf")
    for words in WORDS:
        done = built.doit(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    built.assert_right()


def test_stamps_that_lie_in_the_future(built: Project) -> None:
    """As after a clock that was wrong, or an archive from elsewhere."""
    future = time.time() + 3 * 365 * 86400
    for path in [built.folder, *built.folder.rglob("*")]:
        os.utime(path, (future, future), follow_symlinks=False)
    for words in WORDS:
        done = built.doit(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert built.actions() == dict.fromkeys(PARENTS, "fresh")
    built.edit("left")
    os.utime(built.folder / "left/f", (future, future))
    assert set(built.build()) == {"left", "leaf"}
    built.assert_right()
    built.assert_clean()


def test_the_clock_is_set_back(built: Project) -> None:
    """All that was kept is younger than now; and an edit is older than what was built from it."""
    past = time.time() - 3 * 365 * 86400
    built.edit("left")
    for path in built.folder.rglob("*"):
        if ".doit-images" not in path.parts:
            os.utime(path, (past, past), follow_symlinks=False)
    assert set(built.build()) == {"left", "leaf"}
    old = (built.folder / "left/f").stat()
    (built.folder / "left/f").write_text("x" * old.st_size)
    os.utime(built.folder / "left/f", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert set(built.build()) == {"left", "leaf"}, "of the same size and with the same time"
    built.assert_right()
