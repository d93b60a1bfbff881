"""A run that is ended at a terminal leaves it as it was: the cursor is there, what is typed is shown."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.faults.project import SOON, Project
from tests.waiting import comes

pytestmark = pytest.mark.engine


class Terminal:
    """A terminal on which doit builds; ``shown`` is all that it was sent."""

    def __init__(self, project: Project) -> None:
        self._ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(self._ours)
        self.shown = b""
        environ = {**project.env(), "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "CI"):
            environ.pop(name, None)

        def own() -> None:  # as a shell does it: the keys that interrupt reach this group
            os.setsid()
            os.close(os.open(os.ttyname(0), os.O_RDWR))

        self.doit = subprocess.Popen(
            project.argv("build_optimized"),
            cwd=ROOT,
            env=environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=own,
        )
        os.close(theirs)

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def read_until(self, what: Callable[[], object], seconds: float) -> bool:
        def read() -> bool:
            with contextlib.suppress(OSError):  # nobody has it open any more
                if select.select([self._ours], [], [], 0.05)[0]:
                    self.shown += os.read(self._ours, 65536)
            return bool(what())

        return comes(read, seconds)

    @property
    def hides_cursor(self) -> bool:
        return re.findall(rb"\x1b\[\?25([hl])", self.shown)[-1:] == [b"l"]

    def settings(self) -> object:
        return termios.tcgetattr(self._ours)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.doit.pid, signal.SIGKILL)
        self.doit.wait()
        os.close(self._ours)


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice", "SIGTERM", "SIGKILL", "Ctrl-\\"])
def test_the_terminal_is_as_it_was(project: Project, how: str) -> None:
    terminal = Terminal(project)
    try:
        assert terminal.read_until(lambda: terminal.hides_cursor, 30), terminal.shown
        if how.startswith("Ctrl"):
            terminal.press(b"\x1c" if how == "Ctrl-\\" else b"\x03")
        else:
            terminal.doit.send_signal(signal.Signals[how])
        if how == "Ctrl-C twice":
            time.sleep(0.4)
            terminal.press(b"\x03")
        assert terminal.read_until(lambda: terminal.doit.poll() is not None, SOON + 1)
        assert terminal.read_until(lambda: not terminal.hides_cursor, SOON), terminal.shown[-500:]
        assert comes(lambda: not project.processes(), SOON)
        assert terminal.settings() == terminal.before
        assert b"Traceback" not in terminal.shown
    finally:
        terminal.close()
    assert project.doit("build_optimized").returncode == 0
    project.assert_right()
    project.assert_clean()
