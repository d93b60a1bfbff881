"""The registry and the Redis through which machines share are killed, or hang, in the middle of a build."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.engine.client import Engine
from tests import loopback
from tests.faults.conftest import Rounds
from tests.faults.project import PARENTS, SOON, Project, ended, wait_until
from tests.faults.test_kill_group import builds

pytestmark = pytest.mark.engine
SIGNS = {
    "registry": r"the shared registry \S+ .*(built here instead|not shared)",
    "redis": r"Redis is left out \(.*\): another machine may do the same work",
}
# A request is waited for 2 to 5 s, a push 20 s; after three and two that failed in a row, no more are tried.
PATIENCE = 180


class Sharing:
    """A registry and a Redis of the test's own, which may end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, contextlib.ExitStack()
        self.services = {
            "registry": self._stack.enter_context(loopback.registry(folder / "registry")),
            "redis": self._stack.enter_context(loopback.redis(folder / "redis")),
        }

    @property
    def environ(self) -> dict[str, str]:
        address = self.services["registry"].address
        return {"CACHE_REGISTRY": address, "REDIS_URL": f"redis://127.0.0.1:{self.services['redis'].port}/0"}

    @contextlib.contextmanager
    def close(self) -> Iterator[None]:
        with self._stack:
            yield

    def hit(self, which: str, number: signal.Signals) -> None:
        self.services[which].process.send_signal(number)

    def wake(self) -> None:
        for service in self.services.values():
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)


def test_what_machines_share_through_goes_in_the_middle_of_a_build(
    project: Project, rounds: Rounds, tmp_path: Path
) -> None:
    """Each image is built, nothing is said twice, and what the next run finds is right."""
    for count in rounds.of(2, 200):
        which, number = rounds.chance.choice(list(SIGNS)), rounds.chance.choice([signal.SIGKILL, signal.SIGSTOP])
        sharing = Sharing(tmp_path / f"sharing-{count}")
        with sharing.close():
            project.edit(*PARENTS)
            with ended(project.begun("build_optimized", **sharing.environ)) as doit:
                assert wait_until(lambda: builds(project) or doit.poll() is not None, 30)
                time.sleep(rounds.chance.uniform(0, 0.5))  # no more than the first is done: there are further ones
                sharing.hit(which, number)
                began = time.monotonic()
                assert wait_until(lambda: doit.poll() is not None, PATIENCE), (which, number, project.output)
                rounds.took.append(time.monotonic() - began)
                sharing.wake()
            assert doit.returncode == 0, (which, number, project.output)
            told = [line for line in project.output.splitlines() if re.search("registry|Redis", line)]
            assert any(re.search(SIGNS[which], line) for line in told), (which, number, project.output)
            # Of a registry, that it does not answer, does not give and takes nothing.
            assert len(told) == len(set(told)) <= (3 if which == "registry" else 1), (which, number, told)
            assert "Traceback" not in project.output, project.output
            assert wait_until(lambda: not project.processes(), SOON)
            names = Engine(project.engine.address).snapshot().by_name
            assert not [name for name in names if name.startswith(sharing.environ["CACHE_REGISTRY"])]
            print(f"{which} {number.name}: {rounds.took[-1]:.1f} s")
        assert project.actions(**sharing.environ) == dict.fromkeys(PARENTS, "fresh"), "nobody is asked"
        project.assert_right()
        project.assert_clean()
