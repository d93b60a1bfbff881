"""The definition for ``docker buildx bake``: what it must be allowed, and that it builds."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure
from benchmarks.measure import Timing
from benchmarks.results import Results, seconds
from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.buildkit.bake import allowances, definition, untold
from doit_images.core.buildkit.buildx import is_at_least, version
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import Engine
from doit_images.core.inputs.image_inputs import ImageInputs
from tests.conftest import Lab


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


def inputs(name: str = "app", ignore: str = "", **more: Any) -> dict[str, ImageInputs]:
    return {name: ImageInputs(Image(name=name, ref=f"x/{name}", context="/src", **more), Path("/"), ignore=ignore)}


def test_whatever_bake_can_say_it_says() -> None:
    images = inputs(
        extra_hosts=("a:1.2.3.4", "a:::1", "b:5.6.7.8"),
        cache_from=("x/app:cache", "type=registry,ref=x/c"),
        cache_to=("type=inline",),
        args={"A": "${not} %{if}", "TOKEN": None, "no.name": None},
        labels={"l${x}": "$1"},
    )
    found = definition(images)
    assert found["variable"] == {"TOKEN": {"default": None}}
    assert found["target"]["app"] == {
        "context": "/src",
        "extra-hosts": {"a": "1.2.3.4,::1", "b": "5.6.7.8"},
        "cache-from": ["x/app:cache", "type=registry,ref=x/c"],
        "cache-to": ["type=inline"],
        "args": {"A": "$${not} %%{if}", "TOKEN": "${TOKEN}"},
        "labels": {"l$${x}": "$1"},
        "tags": ["x/app"],
        "output": ["type=docker"],
    }
    assert untold(found, images, "github.com/docker/buildx v0.29.1 x") == [
        "bake cannot give app the argument no.name from the environment"
    ]


def test_what_bake_passes_over_is_told() -> None:
    images = inputs(extra_hosts=("a:1",), network="host", entitlements=("security.insecure",))
    found = definition(images)
    assert untold(found, images, "github.com/docker/buildx 0.13.1 x") == [
        "bake passes over network of app before buildx 0.17, which is not here",
        "bake passes over entitlements of app before buildx 0.17, which is not here",
        "bake passes over extra-hosts of app before buildx 0.25, which is not here",
    ]
    assert len(untold(found, images, "v0.24.0")) == 1
    assert untold(found, images, "v0.25.0") == []
    hiding = inputs(ignore="/.doit-images\n")
    (sentence,) = untold(definition(hiding), hiding, "v0.25.0")
    assert sentence == "bake copies the folder .doit-images into app: its ignore file does not hide it"


@pytest.mark.engine
def test_the_definition_means_what_was_declared(lab: Lab) -> None:
    """Read by the buildx that is here: texts as they stand, arguments from the environment only where they are set."""
    lab.write({
        "compose.yml": """
            name: PREFIX
            services:
              app:
                image: PREFIX/app
                build:
                  context: .
                  args: {A: "$${A} %{if", FTP_PROXY: "${FTP_PROXY}", UNSET: null}
                  cache_from: [PREFIX/app:cache]
                  extra_hosts: ["a=1.2.3.4"]
            """,
        "Dockerfile": "FROM scratch\nARG A UNSET\n",
    })  # fmt: skip
    printed = lab.doit("plan", "--bake", CACHE_BACKEND="inline", CACHE_REGISTRY="127.0.0.1:1", FTP_PROXY="p:secret")
    assert "secret" not in printed.stdout
    assert "plan: bake neither reads nor writes the caches of CACHE_BACKEND (inline)\n" in printed.stderr
    known = is_at_least(version(), (0, 25))
    assert ("plan: bake passes over extra-hosts of app before buildx 0.25" in printed.stderr) != known
    argv = ["docker", "buildx", "bake", "--file", "-", "--print"]
    env = {**os.environ, "FTP_PROXY": "other"}
    shown = subprocess.run(argv, input=printed.stdout, env=env, capture_output=True, text=True, check=True)
    app = json.loads(shown.stdout)["target"]["app"]
    # It prints texts as a definition would hold them.
    assert {name: text.replace("$${", "${").replace("%%{", "%{") for name, text in app["args"].items()} == {
        "A": "${A} %{if", "FTP_PROXY": "other",
    }  # fmt: skip
    assert "app:cache" in json.dumps(app["cache-from"])


@pytest.mark.engine
def test_plan_says_what_the_newer_buildx_asks_for(lab: Lab, newer: TemporaryEngine) -> None:
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
def test_the_newer_compose_and_its_keys(lab: Lab, newer: TemporaryEngine) -> None:
    """With provenance each build of the same has another id; what is on it stays fresh."""
    lab.write(ATTESTED)
    lab.environ = dict(newer.environ)
    planned, engine = lab.doit("plan"), Engine(newer.address)
    assert (planned.returncode == 0) == engine.uses_containerd_store(), planned.stderr
    assert "plan: base: buildx has no option for build.isolation, so it only counts" in planned.stderr
    if not engine.uses_containerd_store():
        return  # refused: test_refused.py
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
    made = definition({"a": ImageInputs(image, Path("/a"))})["target"]["a"]
    assert made["attest"] == ["type=provenance,mode=max", "type=sbom"]
    assert made["no-cache-filter"] == ["s"]


def test_a_peer_that_breaks_off_has_no_figure(tmp_path: Path) -> None:
    results = Results(tmp_path / "x.py", "X", "", machine=measure.machine())
    results.timed("case", {"bake": Timing((1.5, math.inf, 2.0)), "doit": Timing((1.0,))}, 0.1)
    results.write()
    kept = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert kept["timings"]["case"]["commands"]["bake"] == {"median": None, "broke": 1, "runs": 3}
    assert "| case | bake | does not finish | 1 of 3 runs broke off | 3 | " in (tmp_path / "x.md").read_text()
    assert (seconds(0.25), seconds(math.inf)) == ("0.25 s", "does not finish")
