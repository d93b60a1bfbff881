"""An engine of the test's own that is stopped, killed, started again, and given another disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine
from tests.waiting import comes, patience


class Daemon:
    """The process of a temporary engine; what is started here ends with ``close``."""

    def __init__(self, engine: TemporaryEngine) -> None:
        self.engine = engine
        self.folder = Path(engine.address.removeprefix("unix://")).parent
        self._config = self.folder / "daemon.json"
        self._ours: list[subprocess.Popen[bytes]] = []

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """For the block: it takes connections, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        pid = self.pid
        os.kill(pid, number)
        for process in self._ours:
            if process.pid == pid:
                process.wait(patience())
        assert comes(lambda: ended(pid), 60), "the engine does not end"

    def start(self, data: Path | None = None) -> None:
        """Start it again, with what it held, or with another disk."""
        config = json.loads(self._config.read_text())
        config["data-root"] = str(data or self.folder / "data")
        file = self.folder / "again.json"
        file.write_text(json.dumps(config))
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            argv = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--config-file", str(file)]
            environ = {**self.engine.environ}
            for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
                environ.pop(name, None)
            process = subprocess.Popen(argv, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._ours.append(process)
        assert comes(lambda: process.poll() is not None or self.answers(), 60), "the engine does not start"
        assert process.poll() is None, (self.folder / "log").read_text()[-2000:]

    def answers(self) -> bool:
        with contextlib.suppress(UserError):
            Engine(self.engine.address).snapshot()
            return True
        return False

    def close(self) -> None:
        for process in self._ours:
            if process.poll() is None:
                process.terminate()
                process.wait(patience())


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def seconds_since(began: float) -> float:
    return time.monotonic() - began
