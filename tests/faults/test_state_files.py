"""What runs remember, damaged in each way that a file can be: nobody believes it, nothing fails, it is told once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doit_images.cli.doit_memory import Codec, Memory
from doit_images.core.base import checked_json
from doit_images.core.history.store import History, Newer
from doit_images.core.inputs.tree import Tree
from tests.core.history.test_history import BUILD
from tests.core.inputs.test_tree import saved

CASES = int(os.environ.get("FAULTS_CASES") or 40)
NOISE = random.Random(12)
Damage = Callable[[bytes, int], bytes]


def _cut(whole: bytes, at: int) -> bytes:
    return whole[:at]


def _flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1 << NOISE.randrange(8)]) + whole[at + 1 :]


def _noisy(whole: bytes, at: int) -> bytes:
    return whole[:at] + NOISE.randbytes(64) + whole[at + 64 :]


def _zeroed(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes(len(whole[at : at + 512])) + whole[at + 512 :]


DAMAGES = [_cut, _flipped, _noisy, _zeroed]


def damaged(whole: bytes, damage: Damage) -> Iterator[bytes]:
    """A file with this damage at places all over it: each, where there are few."""
    step = max(1, len(whole) // CASES)
    for at in range(0, len(whole), step):
        yield damage(whole, at)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_is_whole_or_unknown(tmp_path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"image": "app", "list": [1, 2.5, None, "ä\udcff"], "checksums": {"a": "b"}}
    path = tmp_path / "images/app.json"
    checked_json.remember(path, content)
    whole = path.read_bytes()
    assert checked_json.recall(path) == content
    for junk in damaged(whole, damage):
        path.write_bytes(junk)
        assert checked_json.recall(path) is None or junk == whole
    assert len(capsys.readouterr().err.splitlines()) == 1, "once"
    checked_json.remember(path, {})
    assert checked_json.recall(path) == {}


@pytest.mark.parametrize("text", ["{}", "[]", "1", '{"a": {"b": 1}}', "null"])
def test_what_an_older_version_wrote_is_unknown_without_a_word(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").write_text(text)
    assert checked_json.recall(tmp_path / "f") is None
    assert "damaged" not in capsys.readouterr().err or not text.startswith("{")


def test_what_is_no_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", "folder", "circle", "none", "pipe/none"):
        assert checked_json.recall(tmp_path / name) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_digests_are_right_whatever_the_index_holds(tmp_path: Path, damage: Damage) -> None:
    root, store = tmp_path / "root", tmp_path / "index.sqlite3"
    (root / "d").mkdir(parents=True)
    for name in ("a", "b", "d/c"):
        (root / name).write_text(name)
        os.utime(root / name, (10**9, 10**9))
    right = _digests(root, store)
    assert right == {"a": hashlib.sha256(b"a").digest(), "b": hashlib.sha256(b"b").digest()}
    whole = store.read_bytes()
    for junk in damaged(whole, damage):
        store.write_bytes(junk)
        assert _digests(root, store) == right
        assert _digests(root, store) == right, "what was made of it is no worse"


def _digests(root: Path, store: Path) -> dict[str, bytes]:
    with saved(store) as index:
        below, folder = Tree(root, index).folder("d"), Tree(root, index).folder("")
        assert below.digest(0) == hashlib.sha256(b"d/c").digest()
        assert index.generation(str(root))
        index.renew()
        return {name: folder.digest(number) for number, name in enumerate(folder.names) if name != "d"}


def test_a_folder_of_which_nothing_is_known_any_more_is_sent_whole(tmp_path: Path) -> None:
    """What a builder holds of it is not known either: a file of the same size and time may have held something else."""
    root, store = tmp_path / "root", tmp_path / "index.sqlite3"
    root.mkdir()
    (root / "f").write_text("1")
    names = set()
    for change in ("", "", "UPDATE folders SET digests = x'00'", ""):
        if change:
            with sqlite3.connect(store) as db:
                db.execute(change)
            db.close()
        with saved(store) as index:
            Tree(root, index).folder("").digest(0)
            names.add(index.generation(str(root)))
    assert len(names) >= 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_history_fails_nobody(tmp_path: Path, damage: Damage) -> None:
    stored = History(tmp_path / "history.sqlite3")
    for _ in range(3):
        stored.add(BUILD)
    whole = stored.path.read_bytes()
    for junk in damaged(whole, damage):
        stored.path.write_bytes(junk)
        # What looks as if a newer version wrote it is nobody's to throw away.
        with contextlib.suppress(Newer):
            _use(stored)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


def _use(stored: History) -> None:
    for build in [*stored.recent(), *stored.last_run()]:
        assert build.outcome
        assert build.causes
    assert set(stored.expected_seconds([BUILD.ref])) <= {BUILD.ref}
    stored.get(1)
    assert stored.add(BUILD)
    assert any(build.fingerprint == BUILD.fingerprint for build in stored.recent())


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_doit_remembers_is_right_or_unknown(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "doit.sqlite3"
    before = Memory(str(path), Codec())
    for number in range(20):
        before.set(f"build_optimized:{number}", "_values_:", {"fingerprint": f"{number}" * 40})
        before.set(f"build_optimized:{number}", "deps:", ["/a", "/b"])
    before.dump()
    whole = path.read_bytes()
    for junk in damaged(whole, damage):
        path.write_bytes(junk)
        now = Memory(str(path), Codec())
        for number in range(20):
            task = f"build_optimized:{number}"
            now.in_(task)
            assert now.get(task, "_values_:") in (None, {"fingerprint": f"{number}" * 40})
            assert now.get(task, "deps:") in (None, ["/a", "/b"])
        now.remove("build_optimized:3")
        now.set("build_optimized:0", "_values_:", {"fingerprint": "new"})
        now.dump()
        again = Memory(str(path), Codec())
        assert again.get("build_optimized:0", "_values_:") in (None, {"fingerprint": "new"}, {"fingerprint": "0" * 40})
        again.remove_all()
        again.dump()


def test_what_doit_cannot_keep_is_told_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    here = Memory(str(tmp_path / "file" / "doit.sqlite3"), Codec())
    here.set("a", "b", {"c": 1})
    assert here.get("a", "b") == {"c": 1}
    here.dump()
    assert "what runs remember cannot be written" in capsys.readouterr().err
