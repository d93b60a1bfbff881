"""The registry and the Redis through which machines share are killed, or hang, in the middle of a build."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doit_images.core.engine.client import Engine
from doit_images.share import by_docker, circuit_breaker, registry
from tests import loopback
from tests.faults.conftest import Rounds
from tests.faults.project import BUSYBOX, PARENTS, SOON, Project, ended
from tests.faults.test_kill_group import builds
from tests.waiting import comes

pytestmark = pytest.mark.engine
SIGNS = {
    "registry": r"the shared registry \S+ .*(built here instead|not shared)",
    "redis": r"Redis is left out \(.*\): another machine may do the same work",
}
PATIENCE = 120
CLOCKS = f"""
import {registry.__name__} as registry, {circuit_breaker.__name__} as check, {by_docker.__name__} as by_docker
registry.Registry.__init__.__defaults__ = (2.0, 2.0, lambda host: False)
check.PATIENCE, by_docker.LOOK_SECONDS = 3.0, 2.0
"""


class Sharing:
    """A registry and a Redis of the test's own, which may end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, contextlib.ExitStack()
        self.services = {
            "registry": self._stack.enter_context(loopback.bare_registry(folder / "registry")),
            "redis": self._stack.enter_context(loopback.redis(folder / "redis")),
        }

    @property
    def environ(self) -> dict[str, str]:
        address = self.services["registry"].address
        return {"CACHE_REGISTRY": address, "REDIS_URL": f"redis://127.0.0.1:{self.services['redis'].port}/0"}

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def hit(self, which: str, number: signal.Signals) -> None:
        self.services[which].process.send_signal(number)

    def wake(self) -> None:
        for service in self.services.values():
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)


def test_what_machines_share_through_goes_in_the_middle_of_a_build(
    project: Project, rounds: Rounds, tmp_path: Path
) -> None:
    """Each image is built, it is said in one sentence, and what the next run finds is right."""
    for count in rounds.of(2, 200):
        which, number = rounds.chance.choice(list(SIGNS)), rounds.chance.choice([signal.SIGKILL, signal.SIGSTOP])
        if count == 0:  # what once took a minute and three sentences
            which, number = "registry", signal.SIGSTOP
        with Sharing(tmp_path / f"sharing-{count}") as sharing:
            project.edit(*PARENTS)
            project.clock = CLOCKS
            with ended(project.begun("build_optimized", **sharing.environ)) as doit:
                assert comes(lambda: builds(project) or doit.poll() is not None, 30)
                time.sleep(rounds.chance.uniform(0, 0.5))  # no more than the first is done: there are further ones
                sharing.hit(which, number)
                began = time.monotonic()
                assert comes(lambda: doit.poll() is not None, PATIENCE), (which, number, project.output)
                rounds.took.append(time.monotonic() - began)
                sharing.wake()
            project.clock = ""
            assert doit.returncode == 0, (which, number, project.output)
            told = [line for line in project.output.splitlines() if re.search("registry|Redis", line)]
            assert any(re.search(SIGNS[which], line) for line in told), (which, number, project.output)
            assert len(told) == 1, (which, number, told)
            assert "Traceback" not in project.output, project.output
            assert comes(lambda: not project.processes(), SOON)
            names = Engine(project.engine.address).snapshot().by_name
            assert not [name for name in names if name.startswith(sharing.environ["CACHE_REGISTRY"])]
            print(f"{which} {number.name}: {rounds.took[-1]:.1f} s")
        assert project.actions(**sharing.environ) == dict.fromkeys(PARENTS, "fresh"), "nobody is asked"
        project.assert_right()
        project.assert_clean()


def test_a_run_is_killed_during_a_push_and_one_during_a_pull(project: Project, tmp_path: Path) -> None:
    """The name that an image has for it is taken away by the next run."""
    large = f"FROM {BUSYBOX}\nRUN head -c 5000000 /dev/urandom > /large\n"
    project.write({"base/Dockerfile": large})
    engine = Engine(project.engine.address)
    with Sharing(tmp_path / "sharing") as sharing:
        relay = loopback.Relay(sharing.services["registry"].port)
        environ = {**sharing.environ, "CACHE_REGISTRY": relay.address}

        def lent() -> list[str]:
            return [ref for ref in engine.snapshot().by_name if ref.startswith(relay.address)]

        def killed_when(now: Callable[[], object]) -> None:
            relay.most = 1_000_000  # so that it is still at it
            with ended(project.begun("build_optimized:base", **environ)) as doit:
                assert comes(lambda: now() or doit.poll() is not None, 60)
                assert doit.poll() is None, project.output
                os.killpg(doit.pid, signal.SIGKILL)
                assert comes(lambda: not project.processes(), SOON)
            relay.most = float("inf")

        killed_when(lent)
        assert lent(), "it was killed too late"
        done = project.doit("build_optimized:base", **environ)
        assert done.returncode == 0, done.stderr
        assert lent() == []
        assert project.actions()["base"] == "fresh"
        project.assert_clean()
        assert project.doit("cache_export", **environ).returncode == 0, "pushed after all"
        assert lent() == []
        project.docker("image", "rm", *(ref for ref in engine.snapshot().by_name if f"{project.prefix}/base:" in ref))
        project.docker("builder", "prune", "--all", "--force")  # on this engine of its own: else no layer has to come
        killed_when(lambda: [argv for argv in project.processes().values() if argv.startswith("docker pull")])
        again = project.doit("build_optimized:base", **environ)
    assert again.returncode == 0, again.stderr
    assert "pulled base" in again.stderr
    assert lent() == []
    assert project.actions()["base"] == "fresh"
    project.assert_clean()
