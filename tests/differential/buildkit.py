"""Ask BuildKit itself: what does it do again when a context has changed?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from doit_images.core.buildkit.rawjson import RawJson
from doit_images.core.engine import plugins

BATCH = 24
# Else BuildKit traces each build and keeps that in its history: a quarter of all that it does for an answer.
UNTRACED = {"TRACEPARENT": f"00-{'1' * 32}-{'1' * 16}-00"}
# "[t3 second 2/4] COPY …", "[t3  2/10] COPY …"; loading contexts, bases and Dockerfiles, and exporting, are no steps
# of an image.
_STEP = re.compile(r"\[ *(?:(?P<target>t[0-9]+) +)?(?:\S+ +)?[0-9]+/[0-9]+\] (?!FROM )")


class Refused(Exception):
    """BuildKit would not build this; the text is what it said."""


@dataclass(frozen=True)
class Answer:
    """How a build went: ``failed``, the steps that were ``run`` (not taken from the cache), what it said in the end."""

    failed: bool
    run: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Question:
    """One build that BuildKit is asked about."""

    context: Path
    dockerfile: Path
    target: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    cached: bool = True
    """Whether its cache may answer."""

    def definition(self) -> dict[str, object]:
        """The same as a target of a bake file."""
        found: dict[str, object] = {
            "context": str(self.context),
            "dockerfile": str(self.dockerfile),
            "args": dict(self.args),
            "contexts": dict(self.contexts),
            "output": ["type=cacheonly"],
            "no-cache": not self.cached,
        }
        return {**found, "target": self.target} if self.target else found


def ask(question: Question) -> Answer:
    """Build with the engine's own builder, and look at which steps ran."""
    return _run([question])[0]


def ask_all(questions: Sequence[Question]) -> list[Answer]:
    """Several builds in one go, which is several times faster.

    One that fails ends them all: what had not run a step by then is asked about again, each half of it. Of what had,
    it stays unknown whether that would fail.
    """
    if len(questions) > BATCH:
        return [*ask_all(questions[:BATCH]), *ask_all(questions[BATCH:])]
    answers = _run(questions)
    if len(questions) > 1 and answers[0].failed:
        answers = [replace(answer, failed=False) for answer in answers]
        ended = [number for number, answer in enumerate(answers) if not answer.run]
        for some in (ended[::2], ended[1::2]):
            again = ask_all([questions[number] for number in some]) if some else []
            for number, answer in zip(some, again, strict=True):
                answers[number] = answer
    return answers


def _run(questions: Sequence[Question]) -> list[Answer]:
    targets = {f"t{number}": question.definition() for number, question in enumerate(questions)}
    definition = json.dumps({"group": {"default": {"targets": list(targets)}}, "target": targets})
    command = ["docker", "buildx", "bake", "--builder=default", "--progress=rawjson", "--provenance=false", "--file=-"]
    # Without the docker command, which looks at all its plugins first: it is asked a thousand times.
    argv, env = plugins.direct(command), {**os.environ, **UNTRACED}
    done = subprocess.run(argv, input=definition.encode(), capture_output=True, check=False, env=env)
    run, text = what_ran(done.stderr)
    steps: dict[str, list[str]] = {target: [] for target in targets}
    for name in run:
        step = _STEP.match(name)
        if step:
            steps[step["target"] or "t0"].append(name)
    failed = done.returncode != 0
    return [Answer(failed, tuple(sorted(found)), "\n".join(text)[-800:]) for found in steps.values()]


def what_ran(stderr: bytes) -> tuple[list[str], list[str]]:
    """From ``--progress=rawjson``: the names of what was not taken from the cache, and all other text."""
    reader = RawJson()
    names: dict[str, str] = {}
    run: dict[str, None] = {}
    text: list[str] = []
    for message in [*reader.feed(stderr), *reader.finish()]:
        if isinstance(message, str):
            text.append(message)
            continue
        for vertex in cast("list[dict[str, str]]", message.get("vertexes") or []):
            names[vertex["digest"]] = vertex["name"]
            text += [vertex["error"]] if vertex.get("error") else []
            if vertex.get("cached"):
                run.pop(vertex["digest"], None)
            elif vertex.get("completed"):
                run[vertex["digest"]] = None
    return [names[digest] for digest in run], text


def contents(context: Path, dockerfile: Path, work: Path) -> dict[str, bytes]:
    """All paths of the file system that a build makes, with a file's bytes (``b""`` for others); or ``Refused``."""
    archive = work / "out.tar"
    command = [
        "docker",
        "buildx",
        "build",
        "--builder=default",
        "--progress=plain",
        f"--output=type=tar,dest={archive}",
    ]
    done = subprocess.run([*command, f"--file={dockerfile}", str(context)], capture_output=True, check=False)
    if done.returncode:
        raise Refused(done.stderr.decode("utf-8", "replace")[-800:])
    found = {}
    with tarfile.open(archive, errors="surrogateescape") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name.strip("/")] = file.read() if file else b""
    archive.unlink()
    return found
