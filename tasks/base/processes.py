"""Which commands are we running, and how do they all stop?

Each command is a process group of its own, so that Ctrl-C, SIGTERM and a failing neighbour can end it
with everything that it started, and nothing is left running when doit goes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

_running: set[subprocess.Popen[bytes]] = set()
_acts: list[Callable[[], object]] = []
_lock = threading.Lock()
_stopping = threading.Event()


class Stopped(Exception):
    """The run was interrupted; nothing more is started."""


@contextlib.contextmanager
def start(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command as a group of its own, with standard output and error in one pipe; it never outlives the block.

    ``stdin`` is what it reads (it must fit a pipe or be read by the command); by default it reads nothing.
    """
    if _stopping.is_set():
        raise Stopped
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with _lock:
        _running.add(process)
    try:
        if stdin is not None and process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin)
                process.stdin.close()
        yield process
        process.wait()
    finally:
        stop(process)
        with _lock:
            _running.discard(process)
        if process.stdout:
            process.stdout.close()


def quietly(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> int:
    """Run a command whose output nobody needs, as ``start`` does, to its end; its status."""
    with start(argv, cwd=cwd, env=env, stdin=stdin) as process:
        for _ in output(process):
            pass
    return process.returncode


def stop(process: subprocess.Popen[bytes], seconds: float = 5) -> None:
    """End a started command and what it started, and give it some time to clean up."""
    if process.poll() is None:
        _end(process, signal.SIGTERM)
        _await([process], seconds)
        _end(process, signal.SIGKILL)


def output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a started command writes, piece by piece, as soon as it is there, until it closes its output."""
    if process.stdout:
        yield from iter(lambda: os.read(process.stdout.fileno(), 65536), b"")  # type: ignore[union-attr]


def stop_all(seconds: float = 1.5) -> None:
    """End every command that still runs: an interrupt first, which BuildKit answers by cancelling the build, then,
    after ``seconds``, for good. No command is started from then on."""
    _stopping.set()
    for act in list(_acts):
        act()
    with _lock:
        running = list(_running)
    for process in running:
        _end(process, signal.SIGINT)
    _await(running, seconds)
    for process in running:
        _end(process, signal.SIGKILL)


@contextlib.contextmanager
def when_stopped(act: Callable[[], object]) -> Iterator[None]:
    """For the block: ``act`` is called when the run is stopped, before anything else, by the thread that stops it."""
    _acts.append(act)
    try:
        yield
    finally:
        _acts.remove(act)


def stopping() -> bool:
    """Whether the run is being stopped: what a command left then is not a result."""
    return _stopping.is_set()


def stop_on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP stop all commands and end the run with status 128 + signal.

    Only the main thread can do this. doit saves its state on the way out and prints no traceback.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    stop_all()
    raise SystemExit(128 + number)


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _await(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.02)
