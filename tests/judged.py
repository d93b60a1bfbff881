"""What holds for the engine here holds for the one that people will have next: the same tests, on Debian testing's.

Each file of tests runs in a pytest of its own, for all in it has to talk to that engine; and they are tests themselves,
so that they take minutes beside the others and not after them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.base import settings
from tests.conftest import ROOT


def environ_of(engine: TemporaryEngine) -> Mapping[str, str]:
    """In which that engine is the one that answers; it gets the base of this repository's images."""
    engine.load(settings.load().base_image)
    # The pytest that runs in it is not one of this one's workers.
    return {name: value for name, value in engine.environ.items() if not name.startswith("PYTEST_")}


def judge(file: str, environ: Mapping[str, str]) -> None:
    """Run a file of tests there; what is marked ``all`` runs on one engine, here."""
    words = ["--quiet", "--exitfirst", "-p", "no:cacheprovider", "-m", "not all", f"tests/{file}"]
    argv = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20000:]
