"""What the tests of faults share: how long they go on, and the marker.

In a usual run each breaks a few things, the same each time; ``doit test_faults --minutes N`` gives all those that go on
at random N minutes together, and prints the seed of each, with which ``FAULTS_SEED`` does the same once more.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base.errors import UserError
from tests import owners
from tests.faults import fuzzing, guided
from tests.faults.project import Project
from tests.waiting import lasting

_HERE = Path(__file__).resolve().parent
MINUTES = float(os.environ.get("FAULTS_MINUTES") or 0)


_SHARERS: pytest.StashKey[int] = pytest.StashKey()
_DONE: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_configure() -> None:
    guided.needed()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A fuzzer is led by Atheris, if that was asked for; everything else is called as always."""
    if not guided.leads(pyfuncitem):
        return None
    pyfuncitem.config.stash[_DONE].append(f"{pyfuncitem.name}: {guided.lead(pyfuncitem)}")
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(_HERE)]
    for item in ours:
        item.add_marker("faults")
    config.stash[_SHARERS] = max(1, sum("rounds" in item.fixturenames for item in ours))  # type: ignore[attr-defined]
    config.stash[_DONE] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_DONE, []):
        terminalreporter.write_line(line)
    for name, (count, longest) in fuzzing.figures.items() if fuzzing.MANY else ():
        terminalreporter.write_line(f"{name}: {count} cases, {longest:.2f} s at most")


class Rounds:
    """How often a test does the same again: ``few`` times, or as long as its share of the time lasts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # A usual run does the same each time: CI is not to fail on what an earlier commit left.
        self.seed = int(os.environ.get("FAULTS_SEED") or (random.randrange(10**6) if seconds else 1))
        self.chance = random.Random(self.seed)
        self.done = 0
        self.took: list[float] = []
        """Seconds that are worth a line in the end."""
        self.lines: list[str] = []
        """What else is worth one."""

    def of(self, few: int, many: int) -> Iterator[int]:
        """Numbers from 0: ``few`` of them in a usual run, at most ``many`` in one that was given time."""
        goes_on = lasting(self._seconds) if self._seconds else lambda: True
        while self.done < (many if self._seconds else few) and goes_on():
            yield self.done
            self.done += 1

    def missed(self) -> None:
        """This time there was nothing left to be broken: it does not count."""
        self.done -= 1


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Iterator[Rounds]:
    one = Rounds(MINUTES * 60 / request.config.stash[_SHARERS])
    print(f"FAULTS_SEED={one.seed}")
    yield one
    if MINUTES:
        took = sorted(one.took)
        times = f", {took[len(took) // 2]:.1f} s, {took[-1]:.1f} s at most" if took else ""
        request.config.stash[_DONE].append(f"{request.node.name}: {one.done} times{times}, FAULTS_SEED={one.seed}")
        request.config.stash[_DONE] += one.lines


@pytest.fixture(scope="module")
def spare(busybox: str) -> Iterator[TemporaryEngine]:
    """An engine of the tests' own, which may be killed."""
    try:
        with temporary_engine("tst-faults-", in_memory=True) as one:
            one.load(busybox)
            yield one
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.fixture
def project(spare: TemporaryEngine, tmp_path: Path) -> Project:
    return Project(tmp_path, spare)


@pytest.fixture(scope="module")
def prefix(spare: TemporaryEngine) -> str:
    return owners.own()


@pytest.fixture
def built(spare: TemporaryEngine, tmp_path: Path, prefix: str) -> Project:
    """A checkout in which all is fresh: what an earlier test of this file built is named again."""
    one = Project(tmp_path, spare, prefix)
    done = one.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    return one
