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

from tasks.content.survey import Surveyed
from tasks.engine import Engine
from tasks.images.bake import allowances, definition
from tasks.measuring import measure
from tasks.measuring.measure import Timing
from tasks.measuring.spare_engine import SpareEngine
from tasks.project import Image
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


ATTESTED = {
    "compose.yml": """
        name: PREFIX
        models: {m: {model: ai/some}}
        services:
          base: {image: PREFIX/base, build: {context: base, provenance: mode=max, isolation: default}, models: [m]}
          app: {image: PREFIX/app, build: {context: app, provenance: false}}
          cloud: {provider: {type: somecloud, options: {size: small}}}
    """,
    "base/Dockerfile": "FROM scratch\nCOPY f /\n",
    "base/f": "1",
    "app/Dockerfile": "FROM PREFIX/base\nCOPY f /g\n",
    "app/f": "2",
}


@pytest.mark.engine
def test_the_newer_compose_and_its_keys(lab: Lab, newer: SpareEngine) -> None:
    """With provenance each build of the same has another id; what is on it stays fresh."""
    lab.write(ATTESTED)
    lab.environ = dict(newer.environ)
    planned = lab.doit("plan")
    assert planned.returncode == 0, planned.stderr
    assert "plan: base: buildx has no option for build.isolation, so it only counts" in planned.stderr
    engine = Engine(newer.address)
    if not engine.uses_containerd_store():
        assert "Attestation is not supported for the docker driver" in lab.doit("build_optimized").stderr
        return
    assert lab.build() == {"base": "built", "app": "built"}
    assert lab.actions() == {"base": "fresh", "app": "fresh"}
    first = engine.snapshot().get(lab.ref("base"))
    assert first is not None
    kinds = [one["Kind"] for one in engine._call("GET", f"/images/{first.id}/json?manifests=1")["Manifests"]]
    assert kinds == ["image", "attestation"]
    for name in [name for name in engine.snapshot().by_name if name.startswith(f"{lab.prefix}/base")]:
        engine.untag(name)
    assert lab.build() == {"base": "built"}
    second = engine.snapshot().get(lab.ref("base"))
    assert second is not None
    assert second.id != first.id
    assert lab.actions() == {"base": "fresh", "app": "fresh"}


def test_attestations_in_a_definition() -> None:
    image = Image("a", "app/a", "/a", "/a/Dockerfile", provenance="mode=max", sbom="true", no_cache_filter=("s",))
    made = definition({"a": Surveyed(image, Path("/a"))})["target"]["a"]
    assert made["attest"] == ["type=provenance,mode=max", "type=sbom"]
    assert made["no-cache-filter"] == ["s"]


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
