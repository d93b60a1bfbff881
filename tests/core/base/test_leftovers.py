"""What a process has for its own time is written down, and removed by the next one when it was killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.leftovers import ProcessJournal
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Gone
from doit_images.pruning import killed_runs
from doit_images.stack import copies, one_container
from tests import pretended
from tests.conftest import ROOT

# Makes a folder in another process and goes on until it is killed.
MAKER = """
import sys
from pathlib import Path
from doit_images.core.base import leftovers
leftovers.keep_in(lambda: Path(sys.argv[1]))
with leftovers.folder("build-", Path(sys.argv[2])) as folder, leftovers.folder("gone-", Path(sys.argv[2])):
    (folder / "Dockerfile").touch()
    print("made", flush=True)
    sys.stdin.read()
"""


def maker(runs: Path, scratch: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", MAKER, str(runs), str(scratch)]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "made\n"
    return process


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    runs, scratch = tmp_path / "runs", tmp_path / "scratch"
    scratch.mkdir()
    dead, living = maker(runs, scratch), maker(runs, scratch)
    assert leftovers.abandoned(runs) == []
    dead.kill()
    dead.wait()
    found = leftovers.abandoned(runs)
    assert len(found) == 1
    assert killed_runs.sweep(found) == 2
    assert leftovers.abandoned(runs) == []
    assert len(list(scratch.iterdir())) == 2, "those of the one that lives"
    living.communicate("")
    assert living.returncode == 0
    assert not list(scratch.iterdir())
    assert not list(runs.iterdir())


def test_a_journal_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = ProcessJournal()
    journal.keep_in(lambda: tmp_path / "file" / "runs")
    journal.made(leftovers.PATH, "/nowhere")
    journal.gone(leftovers.PATH, "/nowhere")
    journal.close()
    assert leftovers.abandoned(tmp_path / "file" / "runs") == []


@pytest.mark.parametrize(
    "line",
    ["", "[", "7", '["+"]', '["+", 7]', '["?", "path", "PLACE"]', '["+", "path", "PLA', '["+", "other", "PLACE"]'],
)
def test_a_damaged_journal_removes_nothing(tmp_path: Path, line: str) -> None:
    place, journal = tmp_path / "place", tmp_path / "1-a.json"
    place.mkdir()
    journal.write_text(written(line.replace("PLACE", str(place))))
    assert killed_runs.sweep([journal]) == 0
    assert place.exists()
    assert not journal.exists()


def test_a_damaged_line_removes_nothing(tmp_path: Path) -> None:
    place, journal = tmp_path / "place", tmp_path / "1-a.json"
    place.mkdir()
    journal.write_text(written(json.dumps(["+", "path", f"{place}x"])).replace("placex", "place"))
    assert killed_runs.sweep([journal]) == 0
    assert place.exists()


def written(line: str) -> str:
    """A line as a journal has it, with a checksum that is right."""
    return f"{zlib.crc32(line.encode()):08x} {line}\n"


def test_a_journal_is_taken_back_line_by_line(tmp_path: Path) -> None:
    journal = tmp_path / "1-a.json"
    lines = [["+", "path", "/a"], ["+", "path", "/b"], ["-", "path", "/a"]]
    journal.write_text("".join(map(written, map(json.dumps, lines))) + written('["-", "path", "/b"]')[:-3])
    assert leftovers.entries(journal) == {("path", "/b")}


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """For the block another file system is there."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount")
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", folder]).returncode:
        pytest.skip("this container may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_where_something_is_mounted_nothing_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "place with a space"
    with mounted(place / "proc"):
        (place / "file").touch()
        assert not leftovers.remove(place)
        assert (place / "file").exists()
    assert leftovers.remove(place)
    assert not place.exists()


INDEX = "export.json"


def written_over(target: Path) -> Path:
    """An earlier export, and what a later one has made to take its place."""
    for folder, text in ((target, "earlier"), (made := target.with_name("made"), "later")):
        folder.mkdir(exist_ok=True)
        (folder / INDEX).write_text(text)
    return made


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "out"
    leftovers.take_the_place_of(target, written_over(target))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / INDEX).read_text() == "later"


def test_a_mount_point_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with mounted(target):
        written_over(target)
        with pytest.raises(UserError, match="is mounted, so no other folder can take its place"):
            leftovers.refuse_foreign(target, INDEX, "an earlier export")
        (target / INDEX).unlink()
        with pytest.raises(UserError, match="is mounted"):
            leftovers.refuse_foreign(target, INDEX, "an earlier export")


@pytest.mark.parametrize("name", ["out", "made"])
def test_where_a_folder_cannot_be_renamed_the_earlier_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As where its parent may be written but what is in it not renamed, or where it became a mount point meanwhile."""
    target, rename = tmp_path / "out", Path.rename

    def refused(path: Path, to: Path) -> Path:
        if path.name == name:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        return rename(path, to)

    made = written_over(target)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(UserError, match=r"Device or resource busy.*what was there is as it was"):
            leftovers.take_the_place_of(target, made)
    assert (target / INDEX).read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out"]


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_process_had_moved_aside_is_brought_back(tmp_path: Path, there: bool) -> None:
    """Or removed, where what was to take its place did."""
    target, aside, journal = tmp_path / "out", tmp_path / ".out-0a1b", tmp_path / "1-a.json"
    aside.mkdir()
    (aside / INDEX).write_text("earlier")
    if there:
        written_over(target).joinpath(INDEX).rename(target / INDEX)
    journal.write_text(written(json.dumps(["+", "aside", str(aside), str(target)])))
    killed_runs.sweep([journal])
    assert (target / INDEX).read_text() == ("later" if there else "earlier")
    assert not aside.exists()
    assert not journal.exists()


def test_a_name_goes_and_only_a_temporary_one(tmp_path: Path) -> None:
    with pretended.engine(tmp_path) as (engine, _):
        address, passing = f"unix://{engine.place}", f"shop/web:{temporary_tag.make('building')}"
        engine.hold({"id": "sha256:1", "tags": [passing, "shop/web:latest"], "labels": {}, "layers": []})
        journal = tmp_path / "1-a.json"
        lines = [
            ["+", "name", address, ref]
            for ref in (passing, "shop/web:latest", "no/such:building-1795505378-0a1b2c3d4e5f")
        ]
        journal.write_text("".join(map(written, map(json.dumps, lines))))
        assert killed_runs.sweep([journal]) == 1
        assert engine.tags() == ["shop/web:latest"]
        assert not journal.exists()


def test_a_name_in_a_registry_that_a_killed_push_left_goes(tmp_path: Path) -> None:
    with pretended.engine(tmp_path) as (engine, _):
        lent = "localhost:5000/shop/web:in-0123456789abcdef"
        engine.hold({"id": "sha256:1", "tags": [lent, "shop/web:latest"], "labels": {}, "layers": []})
        journal = tmp_path / "1-a.json"
        journal.write_text(written(json.dumps(["+", "lent", f"unix://{engine.place}", lent])))
        assert killed_runs.sweep([journal]) == 1
        assert engine.tags() == ["shop/web:latest"]


class Names:
    """An engine that knows nothing but names."""

    address = "unix:///nowhere"

    def __init__(self, **ids: str) -> None:
        self.ids = ids
        self.gone: set[str] = set()

    def tagged(self, ref: str) -> str:
        return f"{self.ids[ref]} 2026-11-26T00:00:00Z" if ref in self.ids else ""

    def tag(self, image_id: str, ref: str) -> None:
        if image_id in self.gone:
            raise Gone(f"the engine holds no image {image_id} any more")
        self.ids[ref] = image_id

    def untag(self, ref: str) -> None:
        del self.ids[ref]


@pytest.mark.parametrize("before", [{}, {"ref": "ours"}, {"ref": "another"}])
def test_a_name_is_lent_and_means_afterwards_what_it_meant_before(before: dict[str, str]) -> None:
    engine = Names(**before)
    with temporary_tag.lent(engine, "ours", "ref"):
        assert engine.ids == {"ref": "ours"}
    assert engine.ids == before


def test_a_name_whose_image_went_while_it_was_lent_goes_too() -> None:
    """Else the name would stay with what it was lent to."""
    engine = Names(ref="another")
    with temporary_tag.lent(engine, "ours", "ref"):
        engine.gone.add("another")
    assert engine.ids == {}


@pytest.mark.parametrize("before", [{}, {"ref": "theirs"}])
def test_what_is_given_back_is_what_was_borrowed(before: dict[str, str]) -> None:
    """A digest's name that somebody has, as after a `docker pull` of it, is not this run's to take away."""
    engine = Names(**before)
    temporary_tag.borrow(engine, "ref")
    engine.tag("theirs", "ref")  # as a pull does, which gives what is there already
    temporary_tag.give_back(engine, "ref")
    assert engine.ids == before
    engine.tag("theirs", "ref")
    temporary_tag.give_back(engine, "ref")
    assert engine.ids == {"ref": "theirs"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("name", "a:building-1795505378-0a1b2c3d4e5f"),
        ("container", "doit-images-once-1"),
        ("volume", "shop_data"),
        ("paused", "shop-db-1"),
    ],
)
def test_what_is_in_an_engine_that_does_not_answer_is_left_to_a_later_run(tmp_path: Path, kind: str, name: str) -> None:
    journal = tmp_path / "1-a.json"
    journal.write_text(written(json.dumps(["+", kind, f"unix://{tmp_path}/no.sock", name])))
    assert killed_runs.sweep([journal]) == 0
    assert journal.exists()


@pytest.mark.parametrize(("name", "ours"), [("doit-images-once-1", 1), ("vllm-swarm-once-1", 1), ("shop-db-1", 0)])
def test_only_a_container_of_ours_is_removed(name: str, ours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of any version may have left it."""
    asked: list[list[str]] = []
    done = SimpleNamespace(status=0, stdout=name)
    monkeypatch.setattr(commands, "run", lambda argv, **more: asked.append(argv) or done)
    assert one_container.remove("unix:///nowhere", name) is bool(ours)
    assert len(asked) == ours


def test_a_volume_goes_after_the_containers_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine removes none that is used, and half of the data would be taken for all of it."""
    gone: list[str] = []
    for room, act in ((one_container, "remove"), (copies, "remove_volume")):
        monkeypatch.setattr(room, act, lambda address, name: bool(gone.append(name)))
    monkeypatch.setattr(killed_runs, "_answers", lambda address: True)
    journal = tmp_path / "1-a.json"
    lines = [["+", "volume", "there", "data"], *(["+", "container", "there", str(number)] for number in range(9))]
    journal.write_text("".join(map(written, map(json.dumps, lines))))
    killed_runs.sweep([journal])
    assert sorted(gone) == [*map(str, range(9)), "data"]
    assert gone[-1] == "data"
    assert not journal.exists()


def test_a_process_that_ends_leaves_what_is_not_removed_to_the_next(tmp_path: Path) -> None:
    program = """
import sys, threading
from pathlib import Path
from doit_images.core.base import leftovers
leftovers.keep_in(lambda: Path(sys.argv[1]))
def work():
    with leftovers.folder("build-", Path(sys.argv[1]).parent):
        made.set()
        threading.Event().wait()
made = threading.Event()
threading.Thread(target=work, daemon=True).start()
made.wait()
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "runs")], cwd=ROOT)
    assert done.returncode == 0
    assert killed_runs.sweep(leftovers.abandoned(tmp_path / "runs")) == 1
    assert not list(tmp_path.glob("build-*"))


def test_one_that_was_killed_before_its_journal_had_its_name_leaves_none(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.send_signal(signal.SIGKILL)
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"{pid}-a").touch()
    assert leftovers.abandoned(tmp_path) == [tmp_path / f"{gone.pid}-a"]
