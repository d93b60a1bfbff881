"""Locks that all checkouts and all users of one engine share."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from doit_images.core.base import commands, lock
from doit_images.core.base.errors import UserError
from tests.conftest import ROOT
from tests.waiting import patience, until

# Holds a lock in another process until its input ends.
HOLDER = """
import sys
from pathlib import Path
from doit_images.core.base import lock
hold = {"held": lambda p: lock.exclusive(p), "shared": lambda p: lock.shared(p, lambda: None)}[sys.argv[1]]
with hold(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds a lock in the block."""

    def __init__(self, how: str, path: Path) -> None:
        argv = [sys.executable, "-c", HOLDER, how, str(path)]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lock"


def test_the_lock_of_an_engine_is_one_for_all_checkouts_and_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.sock").touch()
    (tmp_path / "b.sock").symlink_to("a.sock")
    first = lock.of_engine(f"unix://{tmp_path}/a.sock", "builds")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert lock.of_engine(f"unix://{tmp_path}/b.sock", "builds") == first
    others = [
        lock.of_engine("tcp://10.0.0.1:2376", "builds"),
        lock.of_engine(f"unix://{tmp_path}/a.sock", "stack", "p"),
        lock.of_engine(f"unix://{tmp_path}/a.sock", "stack", "q"),
    ]
    assert len({first, *others}) == 4
    assert {one.parent for one in (first, *others)} == {Path("/tmp")}


def test_anybody_may_lock_whoever_made_the_file(path: Path) -> None:
    before = os.umask(0o077)
    try:
        with lock.try_exclusive(path) as ours:
            assert ours
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def taken_by(user: int | None, path: Path) -> bool:
    """Whether another process, of this user, could take the lock."""
    child = os.fork()
    if not child:
        if user is not None:
            os.setuid(user)
        try:
            with lock.try_exclusive(path) as ours:
                os._exit(0 if ours else 3)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 3)
    return status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")
def test_two_users_share_a_lock_in_a_sticky_folder(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"tst-lock-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o1777)
    try:
        for first, second in ((None, 65534), (65534, None)):
            path = folder / f"{first}.lock"
            assert taken_by(first, path)
            with lock.try_exclusive(path) as ours:
                assert ours
                assert not taken_by(second, path)
            assert taken_by(second, path)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_file_is_refused_in_one_sentence(path: Path, kind: str) -> None:
    if kind == "link":
        path.symlink_to(path.with_name("victim"))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=r"x\.lock: this file cannot be locked: "), lock.try_exclusive(path):
        pass
    assert not path.with_name("victim").exists()


def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS locks files: by byte ranges, of which one for oneself takes a descriptor that is open for writing."""
    flock = fcntl.flock

    def by_range(descriptor: int, how: int) -> None:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if how & fcntl.LOCK_EX and not writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", by_range)


def test_a_file_on_nfs_is_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nfs(monkeypatch)
    for _ in "new", "there":
        with lock.try_exclusive(path) as ours:
            assert ours
            with lock.try_exclusive(path) as theirs:
                assert not theirs


@pytest.mark.parametrize("why", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_that_may_only_be_read_is_locked_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    path.touch()
    really = os.open

    def refused(name: Path, flags: int, *mode: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(why, os.strerror(why))
        return really(name, flags, *mode)

    monkeypatch.setattr(os, "open", refused)
    with lock.try_exclusive(path) as ours:
        assert ours
    nfs(monkeypatch)
    with (
        pytest.raises(UserError, match=r"x\.lock: this file cannot be locked: Bad file descriptor \("),
        lock.try_exclusive(path),
    ):
        pass


def test_a_file_system_without_locks_is_a_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(UserError, match=r"x\.lock: this file cannot be locked: No locks available \("),
        lock.exclusive(path),
    ):
        pass


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Wait until whoever waits for a lock has looked so often."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=sleep))

    def wait(times: int) -> None:
        until(lambda: len(looks) >= times)

    return wait


def test_sharers_do_not_wait_for_each_other_and_one_alone_waits_for_all(
    path: Path, polls: Callable[[int], None]
) -> None:
    other = Holder("shared", path)
    with lock.shared(path, lambda: pytest.fail("it waits")):
        pass
    with lock.try_exclusive(path) as ours:
        assert not ours
    got = threading.Event()

    def alone() -> None:
        with lock.exclusive(path, "waiting"):
            got.set()

    waiting = threading.Thread(target=alone)
    waiting.start()
    polls(2)
    assert not got.is_set()
    other.end()
    assert got.wait(patience())
    waiting.join()


def test_a_killed_holder_holds_nothing(path: Path) -> None:
    other = Holder("held", path)
    other.process.kill()
    other.process.wait()
    with lock.try_exclusive(path) as ours:
        assert ours
    other.end()


def test_who_waits_says_so_once_and_ends_when_the_run_is_stopped(
    path: Path, monkeypatch: pytest.MonkeyPatch, polls: Callable[[int], None]
) -> None:
    other = Holder("held", path)
    said: list[str] = []
    stopped = threading.Event()
    monkeypatch.setattr(commands, "stopping", stopped.is_set)

    def wait() -> None:
        with pytest.raises(commands.Stopped), lock.shared(path, lambda: said.append("waits")):
            pass

    waiting = threading.Thread(target=wait)
    waiting.start()
    polls(2)
    stopped.set()
    waiting.join(patience())
    assert not waiting.is_alive()
    assert said == ["waits"]
    other.end()


def test_a_file_that_was_removed_while_somebody_waited_locks_nobody_out_and_nobody_in(
    path: Path, polls: Callable[[int], None]
) -> None:
    other = Holder("held", path)
    locked = threading.Event()
    ended = threading.Event()

    def wait() -> None:
        with lock.exclusive(path):
            locked.set()
            ended.wait(patience())

    waiting = threading.Thread(target=wait)
    waiting.start()
    polls(2)
    path.unlink()
    other.end()
    assert locked.wait(patience())
    with lock.try_exclusive(path) as ours:
        assert not ours, "both lock the file that is there now"
    ended.set()
    waiting.join()


def test_what_came_in_place_of_a_file_that_was_removed_while_somebody_waited_is_refused(
    path: Path, polls: Callable[[int], None]
) -> None:
    other = Holder("held", path)
    said: list[str] = []

    def wait() -> None:
        try:
            with lock.exclusive(path):
                pass
        except (UserError, OSError) as error:
            said.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    polls(2)
    path.unlink()
    path.mkdir()
    other.end()
    waiting.join(patience())
    assert len(said) == 1
    assert said[0].startswith(f"{path}: this file cannot be locked: ")
