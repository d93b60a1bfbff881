"""A fork of doit is as a process of its own would be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import forked
from tests.conftest import ROOT

CODE = {
    "output": "import os, sys; print(os.environ['MINE'], os.environ.get('NOT_MINE'), os.getcwd(), sys.argv)",
    "status": "import sys; print('why', file=sys.stderr); sys.exit(3)",
    "a sentence": "raise SystemExit('a sentence')",
    "an error": "1 / 0",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "at the end": "import atexit, threading; atexit.register(print, 'b'); threading.Timer(0.1, print, 'a').start()",
    "nothing to read": "import sys; print(repr(sys.stdin.read()))",
    "its group": "import os; print(os.getpgrp())",
    "its children": "import subprocess; print(subprocess.run(['sh', '-c', 'exit 4']).returncode)",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_it_ends_and_says_as_a_process_does(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_MINE", "1")
    argv = [sys.executable, "-c", code, "one", "two words"]
    env = {"PATH": os.environ["PATH"], "MINE": "ä", **forked._start(os.environ)}
    process = subprocess.run(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    fork = forked.run(argv, env)
    assert (fork.returncode, fork.stdout) == (process.returncode, process.stdout)
    assert fork.stderr.splitlines()[-1:] == process.stderr.splitlines()[-1:]


def test_what_it_keeps_on_modules_is_its_own() -> None:
    code = "from doit_images.core import run; print(hasattr(run, 'mine')); run.mine = 1"
    argv = [sys.executable, "-c", code]
    assert [forked.run(argv, os.environ).stdout for _ in range(2)] == ["False\n"] * 2


def test_what_python_itself_reads_of_the_environment_counts() -> None:
    argv = [sys.executable, "-c", "import sys; print(sys.flags.optimize)"]
    assert forked.run(argv, {**os.environ, "PYTHONOPTIMIZE": "2"}).stdout == "2\n"
