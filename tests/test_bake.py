"""The definition for ``docker buildx bake``: what it must be allowed, and that it builds."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tasks.images.bake import allowances
from tasks.measuring import measure
from tasks.measuring.measure import Timing
from tasks.measuring.spare_engine import SpareEngine
from tests.conftest import ROOT, Lab


def target(**more: Any) -> dict[str, Any]:
    return {"context": "/proj/a", "dockerfile": "/proj/a/Dockerfile", **more}


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, []),
        ({"context": "/proj"}, []),
        ({"context": "https://example.org/x.git", "dockerfile": "Dockerfile"}, []),
        ({"context": "/project"}, ["fs.read=/project"]),
        ({"context": "/else", "dockerfile": "/else/in/Dockerfile"}, ["fs.read=/else"]),
        ({"contexts": {"a": "target:b", "c": "docker-image://d", "e": "/e", "f": "oci-layout:///f"}},
         ["fs.read=/e", "fs.read=/f"]),
        ({"secret": ["id=ca,src=/etc/ca.crt", "id=t,env=T", 'id=c,"src=/o,h/s"']},
         ["fs.read=/etc/ca.crt", "fs.read=/o,h/s"]),
        ({"ssh": ["default"]}, ["ssh"]),
        ({"ssh": ["a=/home/me/key"]}, ["fs.read=/home/me/key"]),
        ({"entitlements": ["security.insecure", "network.host"]}, ["network.host", "security.insecure"]),
    ],
)  # fmt: skip
def test_what_bake_must_be_allowed(more: dict[str, Any], asked: list[str]) -> None:
    given = allowances({"target": {"x": target(**more), "y": target()}}, Path("/proj"))
    assert given == [f"--allow={word}" for word in asked]


PROJECT = {
    "proj/compose.yml": """
        name: PREFIX
        services:
          app:
            image: PREFIX/app
            build: {context: ../app, additional_contexts: {more: ../more}, secrets: [s]}
        secrets: {s: {file: ../secret}}
    """,
    "app/Dockerfile": "FROM scratch\nCOPY --from=more file /\n",
    "more/file": "x",
    "secret": "y",
}


@pytest.mark.engine
def test_plan_says_what_the_newer_buildx_asks_for(lab: Lab, newer: SpareEngine) -> None:
    lab.write(PROJECT)
    lab.environ = {**newer.environ, "COMPOSE_FILE": str(lab.folder / "proj/compose.yml")}
    printed = lab.doit("plan", "--bake")
    definition = lab.folder / "bake.json"
    definition.write_text(printed.stdout)
    found = re.search(r"asks for: docker buildx bake (.+)", printed.stderr)
    assert found, printed.stderr

    def bake(*words: str) -> subprocess.CompletedProcess[str]:
        argv = ["docker", "buildx", "bake", "--file", str(definition), *words]
        return subprocess.run(argv, cwd=lab.folder / "proj", env=newer.environ, capture_output=True, text=True)

    assert "additional privileges requested" in bake().stderr
    done = bake(*shlex.split(found[1]))
    assert done.returncode == 0, done.stderr


def test_a_peer_that_breaks_off_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from results import Results, seconds

    results = Results(tmp_path / "x.py", "X", "", machine=measure.machine())
    results.timed("case", {"bake": Timing((1.5, math.inf, 2.0)), "doit": Timing((1.0,))})
    results.write()
    kept = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert kept["timings"]["case"]["bake"] == {"median": None, "broke": 1, "runs": 3}
    assert "| case | bake | does not finish | 1 of 3 runs broke off | 3 |" in (tmp_path / "x.md").read_text()
    assert (seconds(0.25), seconds(math.inf)) == ("0.25 s", "does not finish")
