"""Tests that stand still in the middle: what `test_interrupted` runs and interrupts. Nothing else collects them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import temporary_engine
from tests.conftest import Lab, docker
from tests.stack.test_stack import Stack, built, stack  # noqa: F401  two are fixtures
from tests.waiting import until

PROJECT = {
    "compose.yml": """
        services:
          app: {image: PREFIX/app, build: app}
          slow: {image: PREFIX/slow, build: slow}
        """,
    "app/Dockerfile": "FROM tst-busybox:1\nRUN echo PREFIX > /app\n",
    "slow/Dockerfile": "FROM tst-busybox:1\nRUN echo PREFIX; sleep 1000\n",
}


def held(what: str) -> None:
    """Tell whoever interrupts what stands now, and keep it until that has happened."""
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" ")[0]
    new = Path(os.environ["TST_HELD"], f"{test}.new")
    new.write_text(what)
    new.rename(new.with_suffix(""))
    until(new.with_name("interrupted").exists)


def test_engine() -> None:
    with temporary_engine("tst-held-", in_memory=True) as engine:
        held(engine.address)
        threading.Event().wait()


def test_stack(stack: Stack) -> None:  # noqa: F811
    stack.up()
    held(stack.prefix)
    threading.Event().wait()


def test_build(lab: Lab, busybox: str) -> None:
    lab.write(PROJECT)
    running = lab.start("build_optimized")
    until(lab.images)
    held(lab.prefix)
    running.wait()


@pytest.fixture
def container(lab: Lab, busybox: str) -> Iterator[str]:
    name = f"{lab.prefix}-late"
    docker("run", "--detach", "--name", name, busybox, "sleep", "1000")
    yield name
    held(name)
    docker("rm", "--force", "--volumes", name)


def test_end(container: str) -> None:
    """The interrupt comes while its fixture tidies up."""
