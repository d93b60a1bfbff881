"""Does `doit shell --failed` give what the RUN that failed met: files, mounts, variables, user and folder?"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base.errors import UserError
from doit_images.stack.run_mounts import agent
from tests import loopback, owners
from tests.conftest import ROOT, Lab, docker
from tests.stack.test_shell import Terminal
from tests.waiting import patience, until

SECRET = "hunter2-of-the-failed-step"
PROJECT = {
    "compose.yml": """
        name: PREFIX
        services:
          app:
            image: PREFIX/app
            build:
              context: app
              target: last
              args: {GIVEN: given, UNDECLARED: nothing, HTTP_PROXY: "http://proxy:1"}
              additional_contexts: {other: other}
              secrets: [token, variable]
              extra_hosts: ["far:10.9.8.7"]
              ssh: [default]
          exec: {image: PREFIX/exec, build: exec}
          parent: {image: PREFIX/parent, build: parent}
          child:
            image: PREFIX/child
            build: {context: app, dockerfile: ../child/Dockerfile, additional_contexts: {above: "service:parent"}}
          own:
            image: PREFIX/own
            build:
              context: app
              dockerfile_inline: |
                # escape=`
                FROM tst-busybox:1 AS above
                ONBUILD ARG COLOR=blue
                RUN echo above > /above
                ONBUILD RUN echo own `
                    > /own
                ONBUILD RUN grep $$COLOR /own
                FROM above
          good: {image: PREFIX/good, build: good}
          copy: {image: PREFIX/copy, build: copy}
        secrets:
          token: {file: token}
          variable: {environment: TOLD}
        """,
    "token": SECRET,
    "other/note": "from the context",
    "app/hidden": "",
    "app/.dockerignore": "hidden\n",
    "app/source/code": "the code",
    "app/Dockerfile": """\
        ARG VERSION=7
        FROM tst-busybox:1 AS tools
        RUN mkdir -p /tools && echo tool > /tools/hammer

        FROM tst-busybox:1 AS work
        ARG VERSION GIVEN UNSET
        ARG MADE=${VERSION}-made
        ENV KEPT="a b"
        SHELL ["/bin/sh", "-e", "-c"]
        RUN echo $GIVEN > /before && mkdir -m 777 /job
        WORKDIR /job
        USER 1234:1235
        # The step that fails.
        RUN --mount=type=bind,target=/ctx,rw --mount=source=source/code,target=code,from= \\
            --mount=from=tools,source=/tools,target=/tools --mount=from=other,target=/${VERSION}/other \\
            --mount=type=tmpfs,target=/fast --mount=type=cache,target=/cache,uid=1234,mode=0700 \\
            --mount=type=secret,id=token,uid=1234 --mount=type=secret,id=variable,target=/told,mode=0444 \\
            --mount=type=ssh,uid=1234 <<EOF
        echo half > half
        grep mistake /before
        EOF
        FROM work AS last
        RUN echo never
        """,
    "exec/Dockerfile": """\
        FROM tst-busybox:1
        SHELL ["/bin/sh", "-o", "pipefail", "-c"]
        RUN --network=none ["/bin/sh", "-c", "exit 3"]
        RUN true
        """,
    "parent/Dockerfile": """\
        FROM tst-busybox:1
        ENV SAID="it's \\"so\\" \\$HOME \\\\"
        WORKDIR /up here
        USER 7:8
        SHELL ["/bin/sh", "-u", "-c"]
        ONBUILD ARG COLOR=red
        ONBUILD WORKDIR /
        ONBUILD COPY --chown=7 source/code /up/
        ONBUILD USER 0:0
        ONBUILD RUN echo one > /one
        ONBUILD RUN --mount=type=tmpfs,target=/t grep $COLOR /one
        ONBUILD RUN echo never
        """,
    "child/Dockerfile": "# nothing but what its base does\nFROM above\nRUN echo never\n",
    "good/Dockerfile": "FROM tst-busybox:1\nRUN true\n",
    "copy/Dockerfile": "FROM scratch\nADD http://127.0.0.1:1/nothing /\n",
}
LOOK = """
echo $VERSION $GIVEN ${UNSET-unset} $MADE $KEPT ${UNDECLARED-unset} $HTTP_PROXY; id -u; pwd; cat /before
ls -A /job; ls -A /ctx; cat code /tools/hammer /7/other/note; echo
grep -E ' (/tools|/ctx|/fast) ' /proc/mounts | tr , ' ' | cut -d ' ' -f 2,4 | sort
ls -A /cache; touch /cache/x && cat /run/secrets/token /told; echo
test -S $SSH_AUTH_SOCK && grep far /etc/hosts; exit 5
"""


SEEN = [
    "7 given unset 7-made a b unset http://proxy:1",
    "1234",
    "/job",
    "given",
    "code",
    ".dockerignore",
    "Dockerfile",
    "source",
    "the codetool",
    "from the context",
    "/ctx rw",
    "/fast rw",
    "/tools ro",
    f"{SECRET}told-by-the-environment",
    "10.9.8.7\tfar",
]
KINDS = {
    "exec": ("ls /sys/class/net", ["lo"], 'RUN --network=none ["/bin/sh", "-c", "exit 3"]'),
    "child": (
        "id -u; pwd; echo $SAID $COLOR; cat /one /up/code; stat -c %u /up/code; grep -c ' /t ' /proc/mounts",
        ["0", "/", 'it\'s "so" $HOME \\ red', "one", "the code7", "1"],
        "ONBUILD RUN --mount=type=tmpfs,target=/t grep $COLOR /one",
    ),
    "own": ("cat /above /own; echo $COLOR", ["above", "own", "blue"], "ONBUILD RUN grep $COLOR /own"),
}


@contextlib.contextmanager
def project(folder: Path, **environ: str) -> Iterator[tuple[Lab, str]]:
    """A project in which builds failed, and what they said."""
    lab = Lab(folder)
    lab.environ = {**environ, "TOLD": "told-by-the-environment", "SSH_AUTH_SOCK": f"{folder}/agent"}
    lab.write(PROJECT)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(f"{folder}/agent")
        agent.listen()
        done = lab.doit("run", "--continue", "build_optimized")
        assert done.returncode == 2, done.stderr
        yield lab, done.stderr


@pytest.fixture(scope="module")
def failed(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, str]]:
    with project(tmp_path_factory.mktemp("failed")) as (lab, said):
        yield lab, said
        lab.close()


def looked(lab: Lab, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = lab.argv("shell", "--failed", *words)
    return subprocess.run(argv, cwd=ROOT, env=lab.env(), input=stdin, capture_output=True, text=True)


def gives_all_that_the_run_met(lab: Lab) -> None:
    done = looked(lab, "app", stdin=LOOK)
    assert (done.returncode, done.stdout.splitlines()) == (5, SEEN), done.stderr
    for image, (script, sees, told) in KINDS.items():
        done = looked(lab, image, "/bin/sh", "-c", script)
        assert done.stdout.splitlines() == sees, done.stderr
        assert f"    {told}" in done.stderr.splitlines()


def test_a_failed_run_names_a_shell_with_all_that_it_met(failed: tuple[Lab, str]) -> None:
    lab, said = failed
    for image in ("app", *KINDS):
        assert said.count(f"/logs/{image}.log\n  A shell just before it: `doit shell --failed {image}`\n") == 1, said
    assert said.count("A shell just before") == 4
    gives_all_that_the_run_met(lab)
    kept = subprocess.run(["grep", "-rlE", f"{SECRET}|told-by", str(lab.folder)], capture_output=True, text=True)
    assert kept.stdout.split() == [f"{lab.folder}/token"]


def test_nothing_before_it_is_built_again_and_nothing_stays(failed: tuple[Lab, str]) -> None:
    lab, _ = failed
    done = looked(lab, "app", "sh", "-c", "cat /before; exit 4")
    assert (done.returncode, done.stdout) == (4, "given\n"), done.stderr
    told = done.stderr.splitlines()
    assert told[0] == "app failed at app/Dockerfile:14, run by `/bin/sh -e -c`:"
    assert told[2].startswith("    RUN --mount=type=bind,target=/ctx,rw ")
    assert told[-4:] == [
        "    EOF",
        "",
        "the cache mount /cache is empty here: what it holds stays in the builder",
        "This is what it met, as 1234:1235 in /job; `exit` ends it.",
    ]
    looked(lab, "own", "true")
    [log] = lab.folder.glob(".doit-images/*/logs/own.before.log")
    steps = re.findall(r"^(#\d+) (?:\[.*\] )?RUN ", log.read_text(), re.MULTILINE)
    assert len(steps) == 2
    assert {f"{step} CACHED" for step in steps} <= set(log.read_text().splitlines())
    assert not [ref for ref in lab.images() if ":building-" in ref]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "shell --failed needs the name of an image (doit shell --failed IMAGE [COMMAND …])"),
        (("apq",), "no image is called 'apq' (did you mean 'app'?)"),
        (("good",), "good did not fail when it was last built here, so there is no step to look into"),
        (
            ("copy",),
            "copy failed at [1/1] ADD http://127.0.0.1:1/nothing /, which is no RUN, so there is no step to look into",
        ),
        (("exec", "/no/such"), "/no/such cannot be run there (doit shell --failed exec COMMAND …)"),
    ],
)
def test_where_there_is_none_a_sentence_says_so(failed: tuple[Lab, str], words: tuple[str, ...], sentence: str) -> None:
    done = looked(failed[0], *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == sentence


def containers(lab: Lab) -> list[str]:
    """Those of images of this project that run."""
    rows = docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Image}}").stdout.splitlines()
    return [row.split()[0] for row in rows if row.split()[1].startswith(lab.prefix)]


def test_of_a_run_that_is_killed_the_next_one_removes_all(failed: tuple[Lab, str]) -> None:
    lab, _ = failed
    terminal = Terminal(lab, "shell", "--failed", "app")
    terminal.wait_for("$ ")
    terminal.type("grep mistake /before; echo $((40 + 2))x\n")
    terminal.wait_for("42x")
    [container] = containers(lab)
    form = '{{range .Mounts}}{{if eq .Destination "/tools"}}{{.Name}}{{end}}{{end}}'
    volume = docker("inspect", "--format", form, container).stdout.strip()
    assert docker("volume", "inspect", volume).returncode == 0
    os.kill(terminal.process.pid, signal.SIGKILL)
    terminal.process.wait(patience())
    looked(lab, "good")
    until(lambda: not docker("ps", "--all", "--quiet", "--filter", f"id={container}").stdout, "the container goes")
    until(lambda: docker("volume", "inspect", volume).returncode, "the volume goes")
    until(lambda: not [ref for ref in lab.images() if ":building-" in ref], "the image goes")


def test_what_was_edited_is_built_before_anybody_looks(failed: tuple[Lab, str]) -> None:
    lab, _ = failed
    lab.write({"exec/Dockerfile": "FROM tst-busybox:1\nRUN false\n"})
    sentence = "exec: its inputs changed since it failed (doit build_optimized:exec tells where it fails now)"
    assert looked(lab, "exec").stderr.splitlines()[-1] == sentence


def test_the_newer_engine_gives_it_too(busybox: str, newer: TemporaryEngine, tmp_path: Path) -> None:
    newer.load(busybox)
    with project(tmp_path, **newer.environ) as (lab, _):
        gives_all_that_the_run_met(lab)


def test_a_dedicated_builder_gives_it_too(busybox: str, tmp_path: Path) -> None:
    name = f"cch-{owners.own()}"
    (tmp_path / "far").mkdir()
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(temporary_engine("cch-far-", containerd_store=True, in_memory=True))
        except UserError as trouble:
            pytest.skip(str(trouble))
        far = stack.enter_context(loopback.grpc_of_engine(tmp_path / "far", one.address.removeprefix("unix://")))
        builder = {"BUILDER_DRIVER": "remote", "BUILDER_NAME": name, "BUILDER_ENDPOINTS": far}
        lab, _ = stack.enter_context(project(tmp_path, **builder))
        stack.callback(lab.close)
        stack.callback(docker, "buildx", "rm", "--force", name)
        gives_all_that_the_run_met(lab)


def test_keys_of_ssh_get_an_agent(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of the test", "-f", str(key)], check=True)
    with agent([key]) as place:
        listed = subprocess.run(["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": place}, capture_output=True)
    assert b"of the test" in listed.stdout
    assert not Path(place).exists()
