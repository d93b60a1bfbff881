"""Ctrl-C in the middle of the tests: what is left, and what is said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import owners
from tests.conftest import ROOT
from tests.waiting import until

TESTS = ["engine", "stack", "build", "end"]
# As `doit test` runs them, without what it installs first.
RUN = """
import sys
from doit_images.core.base import commands
from tasks import checks
commands.stop_on_signals()
print(checks.run_tests(sys.argv[1:]))
"""


class Suite:
    """A part of the suite that runs in a process group of its own, as in a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        workers = f"-n{len(TESTS) + 1}"  # one has nothing to do, as at the end of each run
        argv = [sys.executable, "-c", RUN, "--dist=load", workers, "-p", "no:cacheprovider", "tests/held.py"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self.process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**environ, "TST_HELD": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def middle(self) -> dict[str, str]:
        """What each test has told, once all are in the middle."""
        told = [self.folder / f"test_{name}" for name in TESTS]
        until(lambda: self.process.poll() is not None or all(path.exists() for path in told))
        assert self.process.poll() is None, self.process.communicate()[0]
        return {path.name.removeprefix("test_"): path.read_text() for path in told}

    def processes(self) -> list[str]:
        """What still runs of all that it started."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"TST_HELD={self.folder}".encode() in path.read_bytes():
                    found.append(path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


@pytest.fixture
def suite(engine: None, tmp_path: Path) -> Iterator[Suite]:
    if os.geteuid() != 0:
        pytest.skip("an engine of its own needs root")
    one = Suite(tmp_path)
    yield one
    if one.process.poll() is None:
        os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


def left(words: list[str]) -> list[str]:
    """What there is in the engine, the network, the firewall and the temporary folder with one of these words."""
    argvs = [
        ["docker", "ps", "--all", "--format", "container {{.Names}}"],
        ["docker", "network", "ls", "--format", "network {{.Name}}"],
        ["docker", "volume", "ls", "--format", "volume {{.Name}}"],
        ["docker", "image", "ls", "--format", "image {{.Repository}}:{{.Tag}}"],
        ["ip", "-brief", "link"],
        ["iptables", "--wait", "--list-rules"],
        ["iptables", "--wait", "--table", "nat", "--list-rules"],
        ["mount"],
        ["ls", "/tmp"],
    ]
    listed = [subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in argvs]
    return [line for line in "".join(listed).splitlines() if any(word in line for word in words)]


@pytest.mark.engine
def test_interrupted_it_leaves_nothing_and_says_so_in_a_line(suite: Suite) -> None:
    told = suite.middle()
    folder = Path(told["engine"].removeprefix("unix://")).parent
    bridge = json.loads((folder / "daemon.json").read_text())["bridge"]
    words = [told["stack"], told["build"], told["end"], folder.name, bridge]
    found = left(words)
    assert all(any(word in line for line in found) for word in words), found
    os.killpg(suite.process.pid, signal.SIGINT)
    (suite.folder / "interrupted").touch()
    said, _ = suite.process.communicate()
    assert suite.process.returncode == 128 + signal.SIGINT, said
    assert (left(words), suite.processes()) == ([], []), said
    assert not re.search("Traceback|Error|Warning|KeyboardInterrupt", said), said
    assert len(re.findall("nterrupted", said)) == 1, said


KILLED = """
import os, sys
from tests import owners
from tests.conftest import docker
name = owners.own("killed-")
one = f"{{image: {sys.argv[1]}, command: [sleep, '1000'], volumes: ['data:/data']}}"
compose = f"services: {{one: {one}}}\\nvolumes: {{data: }}"
assert docker("compose", "-p", name, "-f", "-", "up", "-d", stdin=compose.encode()).returncode == 0
docker("tag", sys.argv[1], name + "/image:1")
print(name, flush=True)
sys.stdin.read()
"""


@pytest.mark.engine
def test_what_a_killed_run_left_goes_with_the_next_and_what_a_living_one_uses_stays(busybox: str) -> None:
    argv = [sys.executable, "-c", KILLED, busybox]
    runs = [
        subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    names = [run.stdout.readline().strip() for run in runs if run.stdout]
    before = [left([name]) for name in names]
    assert [len(each) for each in before] == [4, 4], before
    for run, after in zip(runs, ([[], before[1]], [[], []]), strict=True):
        run.kill()
        run.communicate()
        owners.sweep()
        assert [left([name]) for name in names] == after
