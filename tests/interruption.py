"""How does a run of the tests end when it is interrupted?

As it would have at its end: the fixtures tidy up, all of them, before anybody leaves. Ctrl-C reaches the process group
of the terminal, so each worker has a group of its own: it is interrupted once, by the process that the terminal asked,
which then waits for it. What its test had started in its group is interrupted with it, but a fixture that tidies up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests import owners

_SAYS = "nothing is left of what the tests had started"
_MEANWHILE = "\nending what the tests have started; Ctrl-C again leaves that to the next run"
_ONCE_MORE = 3  # `doit test` passes on what the terminal has sent us too; the second time it kills us
_CHILDREN_SECONDS = 60.0  # a doit that a test started tidies up as well; what does not hear is left to its test


class Interruption:
    """A plugin of pytest that hears SIGINT for it, in the process that was asked and in each worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._asked = 0
        self._tidying = False
        if self._is_worker:
            os.setpgid(0, 0)
        self._before = signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked == 1 and not self._tidying:
            self._leave()
        if self._asked >= _ONCE_MORE and not self._is_worker:
            os._exit(128 + number)

    def _leave(self) -> None:
        if self._is_worker:
            _interrupt_children()
        else:
            print(_MEANWHILE, file=sys.__stderr__, flush=True)
        raise pytest.Session.Interrupted(_SAYS)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        self._tidying = True
        try:
            result = yield
        finally:
            self._tidying = False
        if self._asked:
            self._leave()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, Any, Any]:
        self._tidying = True
        if self._asked and not self._is_worker:
            _end_workers(self._config)
        try:
            return (yield)
        finally:
            if self._asked and not self._is_worker:
                owners.sweep()

    def pytest_unconfigure(self) -> None:
        signal.signal(signal.SIGINT, self._before)


def _end_workers(config: pytest.Config) -> None:
    """Interrupt all workers, and wait until each has tidied up: xdist would kill them after ten seconds."""
    session: Any = config.pluginmanager.getplugin("dsession")
    nodes = [gateway.node for gateway in session.nodemanager.group] if session else []
    for node in nodes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node.gateway._rinfo().pid, signal.SIGINT)
    for node in nodes:
        with contextlib.suppress(node.channel.RemoteError, EOFError):  # or its process ended
            node.channel.waitclose()


def _interrupt_children() -> None:
    """Interrupt what was started in our process group, and wait for it: whoever waits for it there kills it else."""
    os.killpg(0, signal.SIGINT)
    until = time.monotonic() + _CHILDREN_SECONDS
    while _children() and time.monotonic() < until:
        time.sleep(0.05)


def _children() -> list[int]:
    """Our children that still run in our process group."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            with contextlib.suppress(OSError):
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                if state[0] != "Z" and int(state[2]) == os.getpgrp():
                    found.append(child)
    return found


def can_hear() -> bool:
    """Whether this thread may say what happens on a signal."""
    return threading.current_thread() is threading.main_thread()
