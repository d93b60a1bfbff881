"""Are the files good, and does it work? ``doit lint`` and ``doit test``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import Trouble
from tasks.settings import ROOT

Task = dict[str, Any]
_LOCK = "requirements-dev.txt"
# What the tests use for real, by the command that shows that it is there: Debian's package names.
_PROGRAMS = {
    "busybox": "busybox-static",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "docker-registry": "docker-registry",
    "redis-server": "redis-server",
    "mmdebstrap": "mmdebstrap",
}


def task_dev_environment() -> Task:
    """Install what the tests and linters need, from the hash-locked list"""
    return {
        "actions": [(_run, [[sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", _LOCK]])],
        "file_dep": [_LOCK],
        "uptodate": [_has_pytest],
        "io": {"capture": False},
    }


def task_test_programs() -> Task:
    """Install the Debian packages that the tests use for real, where that is possible"""
    return {"actions": [(install_programs,)], "uptodate": [lambda: not missing_programs()], "io": {"capture": False}}


def task_lint() -> Iterator[Task]:
    """Check types, style and Dockerfiles"""
    commands = {
        "ruff": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "hadolint": ["hadolint", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docker/*/*Dockerfile"))],
    }
    for name, argv in commands.items():
        yield {
            "name": name,
            "doc": " ".join(argv[:3]),
            "actions": [(_run, [[str(Path(sys.executable).parent / argv[0]), *argv[1:]]])],
            "task_dep": ["dev_environment"],
            "io": {"capture": False},
        }


def task_test() -> Task:
    """Run the whole test suite, with everything real: [PYTEST ARGUMENT …]"""
    return {
        "actions": [(run_tests,)],
        "task_dep": ["dev_environment", "test_programs", "build_optimized"],
        "pos_arg": "words",
        "uptodate": [False],
        "io": {"capture": False},
    }


def run_tests(words: Sequence[str]) -> Any:
    """Run pytest with these words; with ``CI`` set, a skip of anything that this machine can run is a failure.

    Without words everything runs, but for ``tests/e2e``: a test runs ``ci_test``, which runs those on a stack.
    """
    env = {**os.environ, "FORBID_SKIPS": os.environ.get("CI", "")}
    everything = ["--ignore=tests/e2e", "--numprocesses=3", "--dist=loadfile"]
    return _run([sys.executable, "-m", "pytest", *(words or everything)], env)


def missing_programs() -> list[str]:
    """The Debian packages of the programs that are not there."""
    return [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]


def install_programs() -> Any:
    """Install what is missing with apt, as root or through sudo; where that cannot be, say so: those tests skip."""
    packages = missing_programs()
    apt, sudo = shutil.which("apt-get"), shutil.which("sudo")
    if not packages:
        return None
    if apt is None or (os.geteuid() != 0 and sudo is None):
        print(f"not installed, tests that need them are skipped: {', '.join(packages)}", file=sys.stderr)
        return None
    first = [] if os.geteuid() == 0 else ["sudo"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = _run([*first, apt, "-qq", "update"], env)
    return update or _run([*first, apt, "-qq", "install", "--yes", "--no-install-recommends", *packages], env)


def _has_pytest() -> bool:
    from importlib.util import find_spec

    return find_spec("pytest") is not None and find_spec("hypothesis") is not None


def _run(argv: Sequence[str], env: dict[str, str] | None = None) -> Any:
    from doit.exceptions import TaskFailed

    try:
        status = subprocess.run(argv, cwd=ROOT, env=env, check=False).returncode
    except FileNotFoundError:
        raise Trouble(f"{argv[0]} is not installed", remedy="doit dev_environment installs it") from None
    return TaskFailed(f"{Path(argv[0]).name} ended with status {status}") if status else None
