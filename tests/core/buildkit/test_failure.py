"""What people read when a build failed: on output of real failed builds, and every hint on the words it is for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.buildkit.failure import explain, hint, place
from doit_images.core.buildkit.progress import Progress
from doit_images.core.compose.image import Image
from tests.conftest import ROOT

CAPTURED = ROOT / "tests/buildkit"
LOG = Path(".doit-images/logs/auth.log")
IMAGE = Image(name="auth", ref="app/auth:1", context="/src", dockerfile="")
DOCKERFILE = """\
FROM python:3.13-slim-trixie AS builder
WORKDIR /build
RUN echo one; echo two >&2; \\
    cat /nonexistent; \\
    exit 3
FROM builder
RUN echo hi
"""


def progress_of(name: str) -> Progress:
    progress = Progress()
    progress.feed((CAPTURED / name).read_bytes())
    progress.finish()
    return progress


def said(name: str, text: str = "") -> str:
    progress = progress_of(name)
    return explain(replace(IMAGE, dockerfile="docker/auth/Dockerfile"), progress, text, LOG, 1)


WHOLE = """\
failed auth: builder 3/3 RUN echo one; echo two >&2; cat /nonexistent; exit 3
  ended with exit status 3

  docker/auth/Dockerfile:3
    1 | FROM python:3.13-slim-trixie AS builder
    2 | WORKDIR /build
  > 3 | RUN echo one; echo two >&2; \\
  > 4 |     cat /nonexistent; \\
  > 5 |     exit 3
    6 | FROM builder
    7 | RUN echo hi

  The last lines of the step:
    one
    two
    cat: /nonexistent: No such file or directory

  Whole log: .doit-images/logs/auth.log"""


def test_a_failed_step_is_shown_whole() -> None:
    assert said("fail.rawjson", DOCKERFILE) == WHOLE


def test_a_missing_file() -> None:
    text = said("missing.rawjson", "FROM python:3.13-slim-trixie\nCOPY nothere.txt /\n")
    assert "  > 2 | COPY nothere.txt /" in text
    assert "Hint: `nothere.txt` is not in the build context" in text


def test_a_base_that_cannot_be_had() -> None:
    text = said("nobase.rawjson", "FROM nosuch.example.invalid/x:1\nRUN echo\n")
    assert "  > 1 | FROM nosuch.example.invalid/x:1" in text
    assert "Hint: `nosuch.example.invalid/x:1` is not in this engine, and its registry cannot be reached" in text


STAGES = "ARG V\nFROM scratch AS runtime-slim\nFROM scratch as runtime-distroless\nFROM runtime-${V}\n"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("runtime-tiny", "; or is the stage `runtime-slim` meant?"), ("python", ""), ("example.com/runtime-slim:1", "")],
)
def test_a_name_that_is_neither_a_stage_nor_an_image(name: str, meant: str) -> None:
    why = "pull access denied, repository does not exist or may require authorization: server message: "
    why = f"failed to resolve source metadata for docker.io/library/{name}:latest: {why}insufficient_scope"
    progress = Progress()
    progress.feed(f"ERROR: failed to build: failed to solve: {name}: {why}: authorization failed\n".encode())
    progress.finish()
    [line] = [line for line in explain(IMAGE, progress, STAGES, LOG, 1).splitlines() if "Hint:" in line]
    what_to_do = "check its name and tag, or `docker login`"
    assert line == f"  Hint: there is no image `{name}` that you may pull: {what_to_do}{meant}"


def test_a_dockerfile_that_cannot_be_read() -> None:
    text = said("syntax.rawjson", "FROM python:3.13-slim-trixie\nRUNN echo\n")
    assert text.startswith("failed auth: dockerfile parse error on line 2: unknown instruction: RUNN")
    assert "  > 2 | RUNN echo" in text


def test_buildx_that_says_nothing() -> None:
    text = explain(IMAGE, Progress(), "", LOG, 125)
    assert text == (
        "failed auth: buildx said nothing about it (exit status 125)\n\n  Whole log: .doit-images/logs/auth.log"
    )


def test_without_buildkits_excerpt_the_line_is_found_by_its_words() -> None:
    step = progress_of("fail.rawjson").failed()
    assert place(step, "", DOCKERFILE) == range(3, 6)
    assert not place(step, "", "FROM other\n")


def test_a_shorter_file_than_the_line_told_does_not_break_it() -> None:
    assert "Dockerfile:" not in said("fail.rawjson", "")


def test_killed_for_memory() -> None:
    error = 'process "/bin/sh -c x" did not complete successfully: exit code: 137'
    times = {"started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:01:15Z"}
    progress = Progress()
    progress.feed(json.dumps({"vertexes": [{"digest": "d", "name": "[2/2] RUN x", "error": error, **times}]}).encode())
    progress.finish()
    text = explain(IMAGE, progress, "", LOG, 1)
    assert "ended with exit status 137 (killed, signal 9) after 75 s" in text
    assert "Hint: memory ran out" in text


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        ("write /var/lib/x: no space left on device", "the disk is full"),
        ("ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", "`doit doctor`"),
        (
            "ERROR: app/base:in-0: failed to resolve source metadata for app/base:in-0: failed to do request: "
            'Head "https://localhost:0/v2/app/base/manifests/in-0": dial tcp 127.0.0.1:0: connect: connection refused',
            "the engine holds this parent",
        ),
        ("grpc: failed to unmarshal the received message: string field contains invalid UTF-8", "is not UTF-8"),
        ("failed to build policy input: unsupported source scheme: oci-layout", "BUILDER_DRIVER=docker"),
        (
            "failed to solve: failed to read dockerfile: failed to load LLB: error evaluating the source policy: "
            'source "local://dockerfile" not allowed by policy: action DENY',
            "a policy refuses this",
        ),
        ("failed to evaluate policy caps: 1 error occurred: rego_compile_error", "<Dockerfile>.rego"),
        ("permission denied while trying to connect to the Docker daemon socket", "may not use the engine"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify", "mount it there"),
        ("curl: (60) SSL certificate problem: self-signed certificate in certificate chain", "as a secret"),
        ("npm error code SELF_SIGNED_CERT_IN_CHAIN", "BUILD_CA_CERT"),
        (
            "r.example/a:1: failed to resolve source metadata for r.example/a:1: failed to do request: Head "
            '"https://r.example/v2/a/manifests/1": tls: failed to verify certificate: x509: certificate signed by '
            "unknown authority",
            "the builder does not trust the certificate of this registry (`r.example`)",
        ),
        ('Head "https://r.example/v2/a/blobs/uploads/": x509: certificate signed by unknown authority', "the builder"),
        ("toomanyrequests: You have reached your pull rate limit", "registry limits"),
        ("ERROR: failed to solve: a/b:1: failed to resolve source metadata for a/b:1: a/b:1: not found", "`a/b:1`"),
        ("pull access denied for nosuch/image, repository does not exist", "no image `nosuch/image`"),
        ("exec /bin/sh: exec format error", "another processor"),
        ("no match for platform in manifest sha256:1", "another processor"),
        ('target stage "prod" could not be found', "no stage `prod`"),
        ("failed to read dockerfile: open x: no such file or directory", "the Dockerfile is not there"),
        ("secret token: not found", "`secrets:`"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "lock again"),
        ("ERROR: No matching distribution found for nosuchpkg==1.0", "no `nosuchpkg==1.0`"),
        ("E: Failed to fetch http://deb.example/x.deb  404  Not Found", "older than the mirror"),
        ("E: Unable to locate package libnosuch-dev", "no package `libnosuch-dev`"),
        ("E: Release file for http://x/InRelease is not valid yet", "clock"),
        ("W: Failed to fetch http://deb.example/x  Unable to connect to deb.example:http:", "name service"),
        ("error: Failed to fetch: `x`\n  client error (Connect)\n  operation timed out", "name service"),
        ("failed to read dockerfile: failed to fetch remote x: Could not resolve host: git.example", "name service"),
        ("curl: (6) Could not resolve host: example.org", "name service"),
        (
            "runc run failed: unable to start container process: waiting for init preliminary setup: read init-p: "
            "connection reset by peer",
            "run the same command again",
        ),
        ("[Errno -3] Temporary failure in name resolution", "name service"),
        ("virtual memory exhausted: Cannot allocate memory", "memory ran out"),
        ("/bin/sh: 1: gcc: not found", "missing in this stage (`gcc`)"),
        ("bash: line 1: uv: command not found", "missing in this stage (`uv`)"),
        ("touch: cannot touch '/x': Permission denied", "USER"),
        ("granting entitlement network.host is not allowed by build daemon", "does not allow"),
        ("denied: requested access to the resource is denied", "`docker login`"),
        ("ERROR: no such job abc", "run the same command again"),
    ],
)
def test_hints(evidence: str, says: str) -> None:
    assert says in hint(evidence)


def test_no_hint_where_nothing_is_known() -> None:
    assert hint("cc: internal compiler error") == ""


def test_a_command_that_only_mentions_a_cause_is_no_evidence() -> None:
    command = 'process "/bin/sh -c test -w / || echo \\"no space left on device\\"" did not complete successfully'
    assert hint(f"{command}: exit code: 2") == ""


LONG_LINES = """
from doit_images.core.buildkit.failure import hint
from doit_images.core.buildkit.progress import Progress

for words in ("a", "a: ", "secret a ", "Package a ", 'process "'):
    assert hint((words * 10_000_000)[:10_000_000]) == ""
progress = Progress()
for _ in range(100_000):
    assert progress.feed(b"x" * 64) == []
assert [len(change.line) for change in progress.feed(b"\\n")] == [6_400_000]
"""


def test_one_long_line_is_no_problem() -> None:
    """A step that printed 300,000 letters kept one pattern busy for minutes, and no signal ended it; a line that came
    in many pieces was looked at anew with each of them. Both took the square of its length: hours for these."""
    subprocess.run([sys.executable, "-c", LONG_LINES], cwd=ROOT, check=True)


def test_a_cause_is_found_at_either_end_of_a_long_line() -> None:
    assert "the disk is full" in hint("no space left on device " + "x" * 100_000)
    assert "`gcc`" in hint("x" * 100_000 + " gcc: not found")
    command = "x" * 100_000
    assert (
        hint(f'process "/bin/sh -c no space left on device {command}" did not complete successfully: exit code: 7')
        == ""
    )
