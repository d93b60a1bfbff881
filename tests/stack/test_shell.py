"""Does `doit shell` see what a service without any tools does, as nobody more than the service, and leave nothing?"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest

from doit_images.cli.action import typed
from tests.conftest import ROOT, Lab, docker
from tests.waiting import patience, until

PROJECT = {
    "compose.yml": """
        name: PREFIX
        services:
          web: {image: PREFIX/web, init: true, read_only: true, cap_drop: [ALL], build: {context: web}}
          job: {image: PREFIX/web, scale: 0}
        """,
    # Busybox is what it is called, so there is no shell in it.
    "web/Dockerfile": """
        FROM scratch
        COPY --from=tst-busybox:1 /bin/busybox /sleep
        COPY passwd group only-here /etc/
        USER app:staff
        ENTRYPOINT ["/sleep", "1000"]
        """,
    "web/passwd": "root:x:0:0:::\napp:x:1234:1235:::\n",
    "web/group": "root:x:0:\nstaff:x:1236:\n",
    "web/only-here": "in the service\n",
}
CONTAINERS = "com.docker.compose.project"
TOOLS = ("--image", "tst-busybox:1")


@pytest.fixture(scope="module")
def web(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A project with a service that runs."""
    lab = Lab(tmp_path_factory.mktemp("shell"))
    lab.write(PROJECT)
    compose = ["compose", "--file", str(lab.folder / "compose.yml"), "--progress", "quiet"]
    try:
        lab.build()
        up = docker(*compose, "up", "--detach", "--no-build")
        assert up.returncode == 0, up.stderr
        yield lab
    finally:
        docker(*compose, "down", "--remove-orphans", "--timeout", "0")
        lab.close()


def containers(lab: Lab) -> list[str]:
    listed = docker("ps", "--all", "--format", "{{.Names}}", "--filter", f"label={CONTAINERS}={lab.prefix}")
    return sorted(listed.stdout.split())


def test_a_command_runs_as_the_service_in_its_namespaces_and_sees_its_files(web: Lab) -> None:
    script = """
        A=1; echo $A $0 $(id -u):$(id -g) $(cat /proc/1/root/etc/only-here)
        for process in self 1; do for kind in pid net mnt; do readlink /proc/$process/ns/$kind; done; done
        """
    done = web.doit("shell", *TOOLS, "web", "sh", "-c", script, "-x=y")
    assert done.returncode == 0, done.stderr
    first, pid, net, mnt, *theirs = done.stdout.splitlines()
    assert first == "1 -x=y 1234:1236 in the service"
    assert theirs[:2] == [pid, net]
    assert theirs[2] != mnt
    assert containers(web) == [f"{web.prefix}-web-1"]


def test_what_is_piped_reaches_the_command_and_its_status_us(web: Lab) -> None:
    argv = web.argv("shell", *TOOLS, "web", "tr", "a", "b")
    done = subprocess.run(argv, cwd=ROOT, env=web.env(), input="aha\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "bhb\n"), done.stderr
    failed = web.doit("shell", *TOOLS, "web", "false")
    assert failed.returncode == 1
    assert failed.stderr.strip() == "false ended with status 1"


def test_root_may_see_more_only_if_it_is_asked_for(web: Lab) -> None:
    done = web.doit("shell", "--root", *TOOLS, "web", "sh", "-c", "id -u; cat /proc/1/root/etc/only-here")
    assert done.stdout.split("\n", 1) == ["0", "in the service\n"], done.stderr
    status = web.doit("shell", *TOOLS, "web", "grep", "-E", "CapBnd|NoNewPrivs", "/proc/self/status").stdout
    assert status.split() == ["CapBnd:", "0" * 16, "NoNewPrivs:", "1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "shell needs the name of a service (doit shell SERVICE [COMMAND …])"),
        (("job",), "job does not run (doit up_optimized job)"),
        (("nobody", "ls"), "no service is called 'nobody' (there are job, web)"),
        (("--image", "localhost:0/none:1", "web", "ls"), "no container can be made: No such image: localhost:0/none:1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(web: Lab, words: tuple[str, ...], sentence: str) -> None:
    done = web.doit("shell", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == sentence
    assert containers(web) == [f"{web.prefix}-web-1"]


class Terminal:
    """A run of doit on a terminal of its own."""

    def __init__(self, lab: Lab, *words: str) -> None:
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            lab.argv(*words),
            cwd=ROOT,
            env=lab.env(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._descriptor = ours
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        until(lambda: text in self._read(), f"{text!r} on the terminal")

    def _read(self) -> str:
        if select.select([self._descriptor], [], [], 0.1)[0]:
            self.text += os.read(self._descriptor, 65536).decode(errors="replace")
        return self.text


def test_it_is_a_terminal_and_goes_when_the_shell_ends(web: Lab) -> None:
    terminal = Terminal(web, "shell", *TOOLS, "web")
    terminal.wait_for(f"as 1234:1236 beside {web.prefix}-web-1: its files are in /proc/1/root, `exit` ends this")
    terminal.wait_for("$ ")
    terminal.type("tty; echo $((40 + 2))x\n")
    terminal.wait_for("/dev/pts/0")
    terminal.wait_for("42x")
    terminal.type("false; exit\n")  # how the last command ended is no failure of the shell
    assert terminal.process.wait(patience()) == 0, terminal.text
    assert containers(web) == [f"{web.prefix}-web-1"]


def test_the_next_run_removes_the_one_of_a_run_that_was_killed(web: Lab) -> None:
    terminal = Terminal(web, "shell", *TOOLS, "web")
    terminal.wait_for("$ ")
    assert len(containers(web)) == 2
    os.kill(terminal.process.pid, signal.SIGKILL)
    terminal.process.wait(patience())
    web.doit("shell", "web", "-")
    until(lambda: containers(web) == [f"{web.prefix}-web-1"], "it goes")


def test_words_with_an_equals_sign_are_the_commands() -> None:
    argv = ["-v", "2", "shell", "--root", "web", "env", "-i", "A=1", "sh", "-c", "b=2; echo $b"]
    assert typed(["web", "env", "-i", "sh", "-c"], argv) == argv[4:]
    assert typed([], ["shell"]) == []
    assert typed(["web"], ["elsewhere"]) == ["web"]
