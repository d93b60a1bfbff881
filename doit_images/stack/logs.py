"""What do the stack's services write? Their logs, once or for as long as somebody reads."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.process import Process
from doit_images.core.compose.stack import Compose, logs_argv
from doit_images.core.run import Run
from doit_images.stack import parts
from doit_images.stack.checkout import compose_of


def logs(run: Run, services: Sequence[str], *, follow: bool, tail: str, since: str) -> None:
    """Print the containers' logs to standard output."""
    if tail != "all" and not tail.isdigit():
        raise UserError(f"--tail must be a number or `all`, not {tail!r}")
    compose = compose_of(run)
    parts.check(services, parts.known(compose) if services else ())
    color = sys.stdout.isatty()
    argv = logs_argv(compose, services, follow=follow, tail=tail, since=since, color=color)
    with commands.start(argv, cwd=compose.directory, env=compose.env) as process:
        for line in process.stdout or ():
            show_line(line, color=color)
    if process.returncode:
        raise UserError(f"docker compose logs ended with status {process.returncode}")


def show_line(line: bytes, *, color: bool) -> None:
    """Pass a line of ``docker compose logs`` on to standard output."""
    # Compose 2.26 clears lines even where it is told that there is no terminal.
    sys.stdout.buffer.write(line if color else line.replace(b"\x1b[2K", b""))
    sys.stdout.buffer.flush()


class Follower:
    """What these services write (default: all), passed on to standard output: a context.

    Compose up to 2.26 loses sight of a container that restarts, so it is asked again after each reaction, for
    everything since the last it told.
    """

    def __init__(self, compose: Compose, services: Sequence[str] = ()) -> None:
        self._compose, self._services = compose, services
        self._color = sys.stdout.isatty()
        self._since = time.time()
        self._going = threading.Event()
        self._going.set()
        self._ended = False
        self._process: Process | None = None

    def __enter__(self) -> Follower:
        threading.Thread(target=self._pass_on, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        self._ended = True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Containers are restarted or recreated in the block; what they write in it is told after it."""
        self._stop()
        try:
            yield
        finally:
            self._going.set()

    def _stop(self) -> None:
        self._going.clear()
        if self._process is not None:
            self._process.stop(1)

    def _pass_on(self) -> None:
        while not self._ended and not commands.stopping():
            if not self._going.wait(timeout=1):
                continue
            since = f"{self._since:.3f}"
            argv = logs_argv(self._compose, self._services, follow=True, since=since, color=self._color)
            with (
                contextlib.suppress(commands.Stopped, UserError),
                commands.start(argv, cwd=self._compose.directory, env=self._compose.env) as process,
            ):
                self._process = process
                for line in process.stdout or ():
                    show_line(line, color=self._color)
            self._since = time.time()
            # It ends by itself when no container runs; the next may come.
            time.sleep(1 if self._going.is_set() else 0)
