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


def without(project: Project, *names: str, **environ: str) -> dict[str, str]:
    found = project.env(**environ)
    return {name: value for name, value in found.items() if name not in names}


@pytest.mark.parametrize("what", ["HOME", "HOME, which is no folder", "TMPDIR, which is no folder", "TERM and LANG"])
def test_a_variable_is_missing_or_wrong(project: Project, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name, _, wrong = what.partition(", ")
    for variable in name.split(" and "):
        project.environ.pop(variable, None)
        monkeypatch.delenv(variable, raising=False)
    if wrong:
        project.environ[name] = "/no/such/folder"
    for words in WORDS:
        done = project.doit(*words)
        assert "Traceback" not in done.stderr + done.stdout, (words, done.stderr)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    project.environ["TMPDIR"] = str(project.scratch)
    project.assert_right()
    project.assert_clean()


def test_git_is_missing(project: Project, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for path in Path(folder).glob("*"):
            if path.name != "git" and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    assert not shutil.which("git", path=str(programs))
    project.environ["PATH"] = str(programs)
    for words in WORDS:
        done = project.doit(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    project.assert_right()


def test_stamps_that_lie_in_the_future(project: Project) -> None:
    """As after a clock that was wrong, or an archive from elsewhere."""
    assert project.doit("build_optimized").returncode == 0
    future = time.time() + 3 * 365 * 86400
    for path in [project.folder, *project.folder.rglob("*")]:
        os.utime(path, (future, future), follow_symlinks=False)
    for words in WORDS:
        done = project.doit(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert project.actions() == dict.fromkeys(PARENTS, "fresh")
    project.edit("left")
    os.utime(project.folder / "left/f", (future, future))
    assert set(project.build()) == {"left", "leaf"}
    project.assert_right()
    project.assert_clean()


def test_the_clock_is_set_back(project: Project) -> None:
    """All that was kept is younger than now; and an edit is older than what was built from it."""
    assert project.doit("build_optimized").returncode == 0
    past = time.time() - 3 * 365 * 86400
    project.edit("left")
    for path in project.folder.rglob("*"):
        if ".doit-images" not in path.parts:
            os.utime(path, (past, past), follow_symlinks=False)
    assert set(project.build()) == {"left", "leaf"}
    old = (project.folder / "left/f").stat()
    (project.folder / "left/f").write_text("x" * old.st_size)
    os.utime(project.folder / "left/f", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert set(project.build()) == {"left", "leaf"}, "of the same size and with the same time"
    project.assert_right()
