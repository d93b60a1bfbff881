"""What is in a folder: the memory of hashes must be quick, and must never be wrong."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.inputs import contents, tree
from doit_images.core.inputs.tree import FileIndex, Tree
from tests.conftest import ROOT


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "d").mkdir(parents=True)
    for name in ("a", "b", "d/c"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def store(tmp_path):
    return tmp_path / "state" / "index.sqlite3"


@pytest.fixture
def hashed(monkeypatch):
    """The paths whose content is read, as they are read."""
    seen: list[str] = []
    real = contents._content

    def spy(path: str, mode: int, size: int) -> object:
        seen.append(path.rpartition("/")[2])
        return real(path, mode, size)

    monkeypatch.setattr(contents, "_content", spy)
    return seen


@contextlib.contextmanager
def saved(store: Path | None) -> Iterator[FileIndex]:
    """A look for the block, which is remembered at its end, whatever happened."""
    index = FileIndex(store)
    try:
        yield index
    finally:
        index.save()
        index.release()


def digests(root: Path, store: Path | None) -> dict[str, str]:
    with saved(store) as index:
        folder = Tree(root, index).folder("")
        return {name: folder.digest(n).hex() for n, name in enumerate(folder.names) if name != "d"}


def age(*paths: Path) -> None:
    """Make files look settled: their last change is well before the next look."""
    time.sleep(contents._TICK / 1e9 + 0.02)
    for path in paths:
        assert path.exists()


def test_digests_are_sha256_of_content(root):
    assert digests(root, None) == {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}


def test_a_settled_file_is_read_once(root, store, hashed):
    age(root / "a")
    digests(root, store)
    assert hashed == ["a", "b"]
    digests(root, store)
    assert hashed == ["a", "b"]


def test_only_what_changed_is_read_again(root, store, hashed):
    age(root / "a")
    digests(root, store)
    (root / "a").write_text("z")
    age(root / "a")
    hashed.clear()
    assert digests(root, store)["a"] == hashlib.sha256(b"z").hexdigest()
    assert hashed == ["a"]
    (root / "new").write_text("new")
    (root / "b").unlink()
    hashed.clear()
    assert set(digests(root, store)) == {"a", "new"}
    assert hashed == ["new"]


def test_same_size_and_old_times_do_not_hide_a_change(root, store):
    age(root / "a")
    before = (root / "a").stat()
    first = digests(root, store)
    (root / "a").write_text("z")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests(root, store)["a"] != first["a"]


def test_a_file_hashed_in_the_tick_of_its_change_is_hashed_again(root, store, hashed):
    (root / "a").write_text("1")
    digests(root, store)  # at once: another write within this tick could leave the same stat behind
    hashed.clear()
    digests(root, store)
    assert "a" in hashed


def test_a_change_that_leaves_the_same_stat_within_the_tick_is_seen(root, store, monkeypatch):
    real = contents.RECORD

    class Coarse:  # a file system whose stamps do not move, the worst there can be
        size = real.size
        unpack = staticmethod(real.unpack)

        @staticmethod
        def pack(mtime: int, ctime: int, size: int, inode: int, mode: int) -> bytes:
            return real.pack(mtime // 10**10, ctime // 10**10, size, inode, mode)

    monkeypatch.setattr(tree, "RECORD", Coarse)
    monkeypatch.setattr(contents, "RECORD", Coarse)
    first = digests(root, store)
    (root / "a").write_text("z")
    assert digests(root, store)["a"] != first["a"]


def test_a_time_in_the_future_is_never_trusted(root, store, hashed):
    age(root / "a")
    os.utime(root / "a", (time.time() + 1000, time.time() + 1000))
    digests(root, store)
    digests(root, store)
    assert hashed.count("a") == 2


def test_a_file_that_changes_while_it_is_read_is_not_trusted(root, store, monkeypatch):
    age(root / "a")
    real = contents._content

    def meddle(path: str, mode: int, size: int) -> object:
        if path.endswith("/a"):
            Path(path).write_text("meanwhile")
        return real(path, mode, size)

    monkeypatch.setattr(contents, "_content", meddle)
    digests(root, store)
    monkeypatch.setattr(contents, "_content", real)
    (root / "a").write_text("meanwhil3")
    assert digests(root, store)["a"] == hashlib.sha256(b"meanwhil3").hexdigest()


def test_a_file_that_vanishes_gives_a_digest_of_its_own(root):
    index = FileIndex()
    folder = Tree(root, index).folder("")
    (root / "a").unlink()
    assert folder.digest(folder.find("a")) != hashlib.sha256(b"a").digest()
    assert folder.find("nothing") == -1


def test_each_folder_is_listed_once(root, monkeypatch):
    listed: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or real(path))
    index = FileIndex()
    outer, inner = Tree(root, index), Tree(root / "d", index)
    assert outer.folder("d") is inner.folder("")
    outer.folder("")
    outer.folder("")
    assert sorted(listed) == sorted([str(root.resolve()), str((root / "d").resolve())])


def test_links_and_special_files(root, store):
    (root / "link").symlink_to("a")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "sock"))
    found = digests(root, store)
    assert found["link"] == hashlib.sha256(b"a").hexdigest()
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    assert digests(root, store)["link"] == hashlib.sha256(b"b").hexdigest()
    assert {"fifo", "sock"} <= set(found)


def test_attributes_that_are_copied_count(root, store):
    age(root / "a")
    first = digests(root, store)
    try:
        os.setxattr(root / "a", "user.test", b"1")
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    assert digests(root, store)["a"] != first["a"]
    os.removexattr(root / "a", "user.test")
    assert digests(root, store) == first


def test_names_that_are_no_utf8(root, store):
    (root / os.fsdecode(b"\xff")).write_text("x")
    age(root / "a")
    assert digests(root, store) == digests(root, store)
    assert "\udcff" in digests(root, store)


def test_a_folder_that_cannot_be_listed_is_trouble(root):
    with pytest.raises(UserError, match="cannot list this folder"):
        Tree(root, FileIndex()).folder("a")


@pytest.mark.parametrize("rubbish", [b"", b"no database at all", b"SQLite format 3\0" + b"\1" * 5000])
def test_a_broken_store_is_made_anew(root, store, hashed, rubbish):
    store.parent.mkdir()
    store.write_bytes(rubbish)
    age(root / "a")
    digests(root, store)
    digests(root, store)
    digests(root, store)
    assert hashed.count("a") <= 2


def test_a_row_that_is_not_well_formed_is_not_believed(root, store):
    age(root / "a")
    first = digests(root, store)
    with sqlite3.connect(store) as db:
        db.execute("UPDATE folders SET digests = x'00'")
    assert digests(root, store) == first
    with sqlite3.connect(store) as db:
        db.execute("UPDATE folders SET stamps = 'text'")
    assert digests(root, store) == first


def whole(root: Path, store: Path | None) -> str:
    with saved(store) as index:
        return Tree(root, index).folder("d").whole().hex()


def test_the_digest_of_a_folder_is_remembered_and_never_that_of_another_state(root, store, hashed):
    seen = set()
    for change in (
        lambda: None,
        lambda: (root / "d/c").write_text("other"),
        lambda: (root / "d/c").chmod(0o640),
        lambda: (root / "d/c").rename(root / "d/e"),
        lambda: (root / "d/f").write_text("new"),
        lambda: (root / "d/f").unlink(),
    ):
        change()
        age(*(root / "d").iterdir())
        first = whole(root, store)
        assert first == whole(root, None)
        hashed.clear()
        assert whole(root, store) == first
        assert hashed == []
        seen.add(first)
    assert len(seen) == 5, "the last state is one that was before"


def test_a_row_without_the_digest_of_its_folder_is_believed(root, store, hashed):
    age(root / "d/c")
    first = whole(root, store)
    with sqlite3.connect(store) as db:
        for path, stamps, kept, _ in db.execute("SELECT * FROM folders").fetchall():
            short = kept[: len(kept) // 64 * 32] if len(kept) == 64 else kept
            row = (short, tree._sum(path, stamps, short), path)
            db.execute("UPDATE folders SET digests = ?, sum = ? WHERE path = ?", row)
    hashed.clear()
    assert whole(root, store) == first
    assert hashed == []


def test_a_store_that_cannot_be_written_is_no_error(root, tmp_path):
    assert digests(root, tmp_path / "root" / "a" / "index.sqlite3")


@pytest.fixture
def switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_folders_are_listed_while_another_thread_saves(root, store, switching):
    """A build asks for a generation while the next image is decided about, by the same index."""
    for number in range(500):
        (root / f"d{number}").mkdir()
    with saved(store) as index:
        listing = threading.Thread(target=lambda: [Tree(root, index).folder(f"d{number}") for number in range(500)])
        listing.start()
        while listing.is_alive():
            index.save()
        listing.join()


def test_what_is_found_overlooked_while_another_thread_saves_begins_a_generation_at_the_next_save(root, store):
    age(root / "d/c")
    with saved(store) as index:
        Tree(root, index).folder("d").digest(0)
    before = FileIndex(store).generation(str(root))
    found = (root / "d/c").stat()
    (root / "d/c").write_text("d/z")
    os.utime(root / "d/c", ns=(found.st_atime_ns, found.st_mtime_ns))
    with saved(store) as index:
        outer, inner = Tree(root, index).folder(""), Tree(root, index).folder("d")
        outer.digest(outer.find("a"))
        assert index._db is not None
        index._db.set_trace_callback(lambda statement: inner.digest(0) if statement == "COMMIT" else None)
        index.save()
        index._db.set_trace_callback(None)
        assert inner.digest(0) == hashlib.sha256(b"d/z").digest()
    assert FileIndex(store).generation(str(root)) != before


def test_two_at_once_and_a_kill(root, store):
    """Writers that run side by side, one of them killed amid it, leave a store that is right."""
    for number in range(300):
        (root / f"f{number}").write_text(str(number))
    age(root / "a")
    code = (
        "import sys; from pathlib import Path; from doit_images.core.inputs.tree import FileIndex, Tree\n"
        "while True:\n"
        "    index = FileIndex(Path(sys.argv[2]))\n"
        "    folder = Tree(Path(sys.argv[1]), index).folder('')\n"
        "    [folder.digest(n) for n, name in enumerate(folder.names) if name != 'd']\n"
        "    folder._stored = False\n"
        "    index.save()\n"
        "    index.release()\n"
        "    print('saved', flush=True)\n"
    )
    argv = [sys.executable, "-c", code, str(root), str(store)]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)) for _ in range(2)]
        for writer in writers:
            stack.callback(writer.kill)

        def saves(writer: subprocess.Popen[bytes], times: int) -> None:
            assert writer.stdout is not None
            assert [writer.stdout.readline() for _ in range(times)] == [b"saved\n"] * times

        for writer in writers:
            saves(writer, 5)
        writers[0].kill()  # amid its next one, or the one after that
        assert writers[0].wait() == -signal.SIGKILL
        with sqlite3.connect(store) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        saves(writers[1], 5)
    with sqlite3.connect(store) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM folders").fetchone() == (1,)
    assert digests(root, store) == digests(root, None)


class Contexts:
    """Folders that are contexts, the generations of which are asked for by looks of their own."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def look(self, root: Path, *only: str) -> str:
        """The generation of a context after a look at its files, or at ``only`` those."""
        with saved(self.store) as index:
            top = Tree(root, index)
            for path in sorted(root.rglob("*")):
                below = path.relative_to(root).as_posix()
                if path.is_dir():
                    top.folder(below)
                elif path.is_file() and below in (only or (below,)):
                    folder = top.folder(below.rpartition("/")[0])
                    folder.digest(folder.find(path.name))
            return index.generation(str(root))


@pytest.fixture
def contexts(root: Path, store: Path) -> Contexts:
    for path in ("a", "b", "d/c"):
        os.utime(root / path, (10**9, 10**9))
    age(root / "a")
    return Contexts(store)


def test_a_generation_lasts_while_everything_shows(root: Path, contexts: Contexts) -> None:
    os.utime(root / "a", ns=(10**18 + 1, 10**18 + 1))
    before = contexts.look(root)
    (root / "a").write_text("other")
    (root / "new").write_text("new")
    assert contexts.look(root) == before


def test_each_context_has_generations_of_its_own(root: Path, contexts: Contexts, tmp_path: Path) -> None:
    other = tmp_path / "root-and-more"  # no context below another one, though its path begins as that
    other.mkdir()
    (other / "f").write_text("f")
    before = contexts.look(root), contexts.look(other)
    (root / "a").unlink()
    assert contexts.look(root) != before[0]
    assert contexts.look(other) == before[1]


@pytest.mark.parametrize("seen_through", ["outer", "inner"])
def test_what_is_overlooked_counts_for_every_context_that_holds_it(
    root: Path, contexts: Contexts, seen_through: str
) -> None:
    outer, inner = root, root / "d"
    before = contexts.look(outer), contexts.look(inner)
    (inner / "c").write_text("d/z")
    os.utime(inner / "c", (10**9, 10**9))
    contexts.look(outer if seen_through == "outer" else inner)
    assert contexts.look(outer) != before[0]
    assert contexts.look(inner) != before[1]


def test_the_mode_of_a_folder_without_a_file_beside_it_is_overlooked_too(root: Path, contexts: Contexts) -> None:
    (root / "only" / "folders").mkdir(parents=True)
    before = contexts.look(root)
    assert contexts.look(root) == before
    (root / "only" / "folders").chmod(0o711)
    assert contexts.look(root) != before


def test_what_is_overlooked_above_a_context_does_not_count_for_it(root: Path, contexts: Contexts) -> None:
    before = contexts.look(root / "d")
    contexts.look(root)
    (root / "a").unlink()
    contexts.look(root)
    assert contexts.look(root / "d") == before


def test_what_another_look_did_not_read_is_not_taken_for_seen(root: Path, contexts: Contexts) -> None:
    """Another project of the folder may copy only other files of the same context."""
    before = contexts.look(root)
    (root / "a").write_text("z")
    os.utime(root / "a", (10**9, 10**9))
    contexts.look(root, "b")
    assert contexts.look(root) != before


def test_all_is_in_the_context_that_is_the_whole_disk() -> None:
    for path in ("/a/b", "//a/b"):  # the second is how that context calls it
        assert {"/", path} <= {*tree._roots(path)}
    assert {*tree._roots("/a/b")} >= {"/a"}
    assert {*tree._roots("/a")} <= {"/", "", "/a"}


def test_all_contexts_are_renewed_when_something_was_not_seen(root: Path, contexts: Contexts) -> None:
    before = contexts.look(root), contexts.look(root / "d")
    with saved(contexts.store) as index:
        index.renew()
    assert contexts.look(root) != before[0]
    assert contexts.look(root / "d") != before[1]
