"""One command that was started: what does it write, and how does it end with all that it started?"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

_STOP_SECONDS = 5.0


class Process(subprocess.Popen[bytes]):
    """A command that was started, and all that it started in its group."""

    grouped = True
    mark = ""  # what `guard` knows it by; none for one that it does not end
    tidies = False  # whether it is waited for when it was interrupted, for as long as it takes
    why = ""  # why it was ended, where what it works with has failed
    late = False
    """Whether it was stopped because its time was over."""

    def output(self, silence: float | None = None) -> Iterator[bytes]:
        """What it writes, piece by piece, as soon as it is there, until it closes its output; nothing (``b""``) after
        each ``silence`` of so many seconds."""
        if stream := self.stdout:
            poll = select.poll()
            poll.register(stream, select.POLLIN)
            while True:
                if silence is not None and not poll.poll(silence * 1000):
                    yield b""
                elif data := os.read(stream.fileno(), 65536):
                    yield data
                else:
                    return

    def over(self, *, wait: bool = False) -> bool:
        """Whether it has ended, with ``wait`` once it has. It is not reaped here: until it is, no other process can
        have the number of its group."""
        if self.returncode is not None or not hasattr(os, "waitid"):
            return (super().wait() if wait else self.poll()) is not None
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)) is not None
        return True  # another thread has just reaped it

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and end what it left running in its group; its exit status."""
        if self.over(wait=timeout is None):
            self.send(signal.SIGKILL)
        return super().wait(timeout)

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """End it and what it started: SIGTERM, and after so many seconds SIGKILL for all that is left."""
        if not self.over():
            self.send(signal.SIGTERM)
            _await([self], seconds)
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its whole group."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.killpg if self.grouped else os.kill)(self.pid, number)

    def time_out(self) -> None:
        """Its time is over: if it still runs, it is stopped."""
        if not self.over():
            self.late = True
            self.stop()

    def close(self) -> None:
        """Close our ends of its pipes."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def interrupt(processes: Sequence[Process], seconds: float) -> None:
    """Interrupt them, and kill what is left of them after so long, or once it has ended if it tidies up."""
    for process in processes:
        process.send(signal.SIGINT)
    _await(processes, seconds)
    for process in sorted(processes, key=lambda process: process.tidies):
        process.over(wait=process.tidies)
        process.send(signal.SIGKILL)


def _await(processes: Sequence[Process], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not all(process.over() for process in processes) and time.monotonic() < until:
        time.sleep(0.02)
