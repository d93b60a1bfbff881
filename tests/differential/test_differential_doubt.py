"""BuildKit is the judge where a source is hard to know: nothing missed, and little that is needless.

Each case is made from a seed: variables on which versions of BuildKit disagree or that only a base sets, URLs with
variables, backslashes. Each path is changed, and ours and BuildKit's answer are compared. ``DOUBT_SEEDS=100-400`` tries
these instead of a few that BuildKit can build; about half of all cannot be built.
"""

from __future__ import annotations

import http.server
import itertools
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.inputs import dockerfile, ignorefile
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from tests.differential import buildkit, doubts, mutations
from tests.differential.mutations import Mutation

pytestmark = pytest.mark.engine

_FEW = (202, 204, 212, 218, 222, 226, 230, 281)
_SEEDS = range(*map(int, os.environ["DOUBT_SEEDS"].split("-"))) if "DOUBT_SEEDS" in os.environ else _FEW
BROKEN = "broken"


class _Anything(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("ETag", '"same"')
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"x")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing: what was asked for does not matter."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Where every URL answers with the same, for the BuildKit of an engine on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Anything) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


@pytest.fixture(scope="module", autouse=True)
def base(engine: None) -> Iterator[None]:
    command = ["docker", "import", "--change=ENV PART=a", "--change=ENV WHERE=b", "-", doubts.BASE]
    subprocess.run(command, input=b"\0" * 10240, check=True, capture_output=True)
    yield
    subprocess.run(["docker", "image", "rm", doubts.BASE], check=False, capture_output=True)


@dataclass(frozen=True)
class Verdict:
    """How many changes both call harmless, and which are ``needed``, ``needless`` and ``missed``."""

    harmless: int
    needed: list[str]
    needless: list[str]
    missed: list[str]


def _ours(case: doubts.Doubt, context: Path, path: Path) -> str:
    env = {doubts.BASE: {"PART": "a", "WHERE": "b"}} if case.told else {}
    try:
        found = dockerfile.reads(path.read_text(), where="Dockerfile", env=env)
        view = View(Tree(context, FileIndex()), ignorefile.load(ignorefile.effective(context, path)))
        return select(view, found.copies, "Dockerfile").digest
    except UserError:
        return BROKEN


def _copy(context: Path, changes: Sequence[Mutation]) -> Path:
    place = context.parent / uuid.uuid4().hex
    shutil.copytree(context, place, symlinks=True)
    for change in changes:
        change.apply(place)
    return place


def _changes(context: Path) -> list[Mutation]:
    """One change of each path, and one more path in each folder; none of them makes a source vanish."""
    return [one for one in mutations.all_of(context) if one.kind in ("change", "add file in")]


def judge(case: doubts.Doubt, work: Path) -> Verdict | None:
    """Both answers to every change; ``None`` where BuildKit does not build this at all."""
    context, path = case.lay(work)
    before = _ours(case, context, path)
    question = buildkit.Question(context, path)
    if buildkit.ask(question).failed:
        return None
    assert before != BROKEN, f"broken to us only:\n{case}"
    quiet: list[Any] = []
    loud: list[Any] = []
    for change in _changes(context):
        place = _copy(context, [change])
        (quiet if _ours(case, place, path) == before else loud).append((change, place))
    together = _copy(context, [change for change, _ in quiet])
    repeated, *works = _work(path, [context, together, *(place for _, place in loud)])
    assert not repeated, "BuildKit repeats steps for an equal context: it cannot be the judge"
    missed: list[str] = []
    if works.pop(0):
        alone = _work(path, [place for _, place in quiet])
        missed = [str(change) for change, _ in itertools.compress(quiet, alone)] or ["all of them together"]
    needed = [str(change) for change, _ in itertools.compress(loud, works)]
    return Verdict(len(quiet) - len(missed), needed, [str(one) for one, _ in loud if str(one) not in needed], missed)


def _work(path: Path, contexts: Sequence[Path]) -> list[bool]:
    """Does BuildKit have work with each of these?"""
    return [_works(answer) for answer in buildkit.ask_all([buildkit.Question(place, path) for place in contexts])]


def _works(answer: buildkit.Answer) -> bool:
    """What is fetched is asked for again in every build: that is no step."""
    return answer.failed or any("] ADD http" not in step for step in answer.run)


def test_what_is_hard_to_know_is_known(server: str, tmp_path: Path) -> None:
    needed = needless = 0
    for seed in _SEEDS:
        work = tmp_path / str(seed)
        work.mkdir()
        case = doubts.make(seed, server)
        verdict = judge(case, work)
        shutil.rmtree(work)
        if verdict:
            assert not verdict.missed, f"seed {seed}: {verdict.missed}\n{case.dockerfile}"
            needed += len(verdict.needed)
            needless += len(verdict.needless)
    assert needed > 20, "too few changes matter: this test compares next to nothing"
    assert needless <= 0.01 * (needed + needless)
