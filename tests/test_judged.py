"""What BuildKit judges holds for the engine that people will have next too: those tests, with Debian testing's.

Each file runs in a pytest of its own, for all in it has to talk to that engine; and they are tests themselves, so that
they take minutes beside the others and not after them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tasks.base import settings
from tests.conftest import ROOT

pytestmark = pytest.mark.engine

# What holds for BuildKit, Compose and the engine of any version, or the plan is wrong: what an image reads, and what
# the engine keeps of it. The former is the same for either store; new engines come with containerd's.
KEPT = ("test_differential_doubt.py", "test_rebuild.py", "test_sent_again.py")
READ = ("test_differential.py", "test_differential_plan.py")


@pytest.fixture(scope="session")
def environ(newer: TemporaryEngine, base_image: None) -> Mapping[str, str]:
    """In which that engine is the one that answers, and holds the base of this repository's images."""
    newer.load(settings.load().base_image)
    # The pytest that runs in it is not one of this one's workers.
    return {name: value for name, value in newer.environ.items() if not name.startswith("PYTEST_")}


@pytest.mark.parametrize("file", [*READ, *KEPT])
@pytest.mark.parametrize("newer", ["containerd"], indirect=True, scope="session")
def test_in_containerds_store(environ: Mapping[str, str], file: str) -> None:
    judge(file, environ)


@pytest.mark.parametrize("file", KEPT)
@pytest.mark.parametrize("newer", ["classic"], indirect=True, scope="session")
def test_in_the_classic_store(environ: Mapping[str, str], file: str) -> None:
    judge(file, environ)


def judge(file: str, environ: Mapping[str, str]) -> None:
    argv = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", "-p", "no:cacheprovider", f"tests/{file}"]
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stdout[-20000:]
