"""What shows that somebody touched an input, also when its content is again what it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project
from doit_images.core.inputs import stamps
from doit_images.core.inputs.resolver import InputResolver


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_context(tmp_path / "context")


def write_context(folder: Path) -> Path:
    for name in ("app/main.py", "app/sub/more.py", "logs/old.log", "keep/in/here.txt", "wild/one/x.txt", "wild/two/y"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "app/link").symlink_to("main.py")
    (folder / ".dockerignore").write_text("**/*.log\nkeep\n!keep/in/*.txt\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY app /app\nCOPY wild/*/x.txt /x/\n")
    return folder


def look(folder: Path) -> stamps.Stamps:
    image = Image(name="a", ref="x/a", context=str(folder), dockerfile=str(folder / "Dockerfile"))
    project = Project("p", folder.parent, (folder.parent / "compose.yml",), {"a": image})
    inputs = InputResolver(project, folder.parent / ".doit-images").resolve("linux/amd64", lambda ref, platform: None)[
        "a"
    ]
    assert not inputs.problem
    return stamps.look(inputs.parts)


def moved(before: stamps.Stamps, folder: Path) -> tuple[list[str], list[str]]:
    changes = before.moved()
    files, folders = ([os.path.relpath(path, folder) for path in paths] for paths in (changes.files, changes.folders))
    return files, folders


def test_nothing_moves_by_itself_or_by_being_read(context: Path) -> None:
    before = look(context)
    (context / "app/main.py").read_bytes()
    assert moved(before, context) == ([], [])


def rewrite(path: Path) -> None:
    """As `git stash; git stash pop` of a tool that gives files their old times back."""
    text, times = path.read_text(), path.stat()
    path.write_text("B")
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("name", ["app/main.py", "app/sub/more.py", "wild/one/x.txt"])
def test_a_file_that_is_what_it_was_but_was_not_between(context: Path, name: str) -> None:
    before = look(context)
    rewrite(context / name)
    assert moved(before, context) == ([name], [])


@pytest.mark.parametrize(
    ("act", "folders"),
    [
        (lambda folder: (folder / "app/sub/new.log").write_text(""), ["app/sub"]),
        (lambda folder: come_and_go(folder / "app/new.py"), ["app"]),
        (lambda folder: come_and_go(folder / "wild/two/x.txt"), ["wild/two"]),
        (lambda folder: come_and_go(folder / "unread.txt"), ["."]),
        (lambda folder: come_and_go(folder / "logs/x"), []),
    ],
)
def test_what_came_or_went_moves_the_folders_that_were_asked(
    context: Path, act: Callable[[Path], object], folders: list[str]
) -> None:
    before = look(context)
    act(context)
    assert moved(before, context) == ([], folders)


def come_and_go(path: Path) -> None:
    path.write_text("")
    path.unlink()


def swap(folder: Path) -> None:
    """Another folder or link in its place, for a while."""
    folder = Path(os.path.normpath(folder))
    away = folder.with_name("away")
    folder.rename(away)
    shutil.copytree(away, folder)
    shutil.rmtree(folder)
    away.rename(folder)


@pytest.mark.parametrize(
    ("name", "files", "folders"),
    [("app/sub", ["app/sub"], ["app"]), (".", ["."], []), ("..", [".."], []), ("../link", ["../link"], [])],
)
def test_a_folder_that_was_another_for_a_while(tmp_path: Path, name: str, files: list[str], folders: list[str]) -> None:
    """No stamp in it moves, and none of the context where it is one above that."""
    folder = write_context(tmp_path / "project/of/context")
    folder.with_name("link").symlink_to("context")
    seen = folder.with_name("link") if name == "../link" else folder
    before = look(seen)
    swap(folder / name if name != ".." else folder.parent)
    assert moved(before, folder) == (files, folders)
    assert not before.moved().doubtful


def test_a_folder_that_was_another_for_a_while_and_something_came(context: Path) -> None:
    """Then its times are those of what came, and only the folder above can tell that it may have been another."""
    before = look(context)
    swap(context / "app/sub")
    come_and_go(context / "app/sub/new.log")
    assert moved(before, context) == ([], ["app", "app/sub"])
    assert before.moved().doubtful
    before = look(context)
    come_and_go(context / "app/sub/new.log")
    assert moved(before, context) == ([], ["app/sub"])
    assert not before.moved().doubtful


def test_something_came_above_a_context_that_was_another_for_a_while(tmp_path: Path) -> None:
    """What comes and goes above a context means nothing, as long as that itself is where it was."""
    folder = write_context(tmp_path / "project/of/context")
    before = look(folder)
    for busy in (folder.parent, folder.parent.parent):
        come_and_go(busy / "new")
    assert moved(before, folder) == ([], [])
    assert not before.moved().doubtful
    swap(folder.parent)
    assert moved(before, folder) == ([], [".."])
    assert before.moved().doubtful


def test_a_hidden_folder_that_may_show_something_counts(context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (context / "keep/in/here.txt").unlink()  # nothing in it is visible now
    before = look(context)
    come_and_go(context / "keep/in/other.txt")
    assert moved(before, context) == ([], ["keep/in"])


def test_a_link_that_pointed_elsewhere_for_a_while(context: Path) -> None:
    before = look(context)
    for target in ("sub/more.py", "main.py"):
        (context / "app/link").unlink()
        (context / "app/link").symlink_to(target)
    assert moved(before, context) == (["app/link"], ["app"])


def test_a_change_in_the_very_tick_of_the_look_is_seen(context: Path) -> None:
    """A look at what was written just now waits until the clock of the file system has ticked."""
    for _ in range(20):
        (context / "app/main.py").write_text("A")
        before = look(context)
        rewrite(context / "app/main.py")
        assert moved(before, context)[0] == ["app/main.py"]


def test_what_does_not_come_to_rest_has_moved(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = iter(range(100))
    monkeypatch.setattr(time, "sleep", lambda seconds: (context / "app/main.py").write_text(f"{next(writes)}"))
    monkeypatch.setattr(stamps, "tick", lambda ctime: 3600 * 10**9)
    before = look(context)
    assert 1 < next(writes) < 10
    assert "app/main.py" in moved(before, context)[0]


def test_a_stamp_of_the_future_is_not_waited_for_twice(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file server's whose clock is ahead."""
    hour = 3600 * 10**9
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - hour)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    assert moved(look(context), context) == ([], [])
    assert len(waits) == 1
