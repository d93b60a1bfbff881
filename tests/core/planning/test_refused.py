"""What BuildKit would refuse, the plan says: odd names, where it is new enough; secrets without a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.compose.place import place
from doit_images.core.engine.client import Engine
from doit_images.core.planning import refused
from tests.conftest import Lab, docker


@pytest.mark.parametrize(
    ("version", "refuses"),
    [
        ("26.1.5+dfsg1", False),
        ("27.3.1", False),
        ("27.4.0", True),
        ("28.5.2+dfsg4", True),
        ("30.0.0-dev", True),
        ("dev", False),
        ("", False),
    ],
)
def test_which_engines_refuse_them(version: str, refuses: bool) -> None:
    """BuildKit 0.17.0 is the first with another protobuf, and Engine 27.4.0 the first with that (``vendor.mod``)."""
    assert refused.refuses(version) is refuses


def test_where_a_key_stands(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text(
        "x-b: &b {sbom: true}\nservices:\n  a:\n    build: !override\n      <<: *b\n      provenance: true\n"
    )
    two.write_text("services: {a: {build: {context: .,\n  privileged: true}}}\n")
    files = (one, two)
    found = [place(files, "services", "a", "build", key) for key in ("provenance", "privileged", "sbom", "tags")]
    assert found == [f"{one}:6", f"{two}:2", f"{one}:1", f"{two}:1"]
    assert place(files, "services", "b", "build") == str(one), "it stands in a file that these include"
    one.write_text("services: [")
    assert place((one,), "services", "a") == str(one)


PROJECT = {
    "compose.yml": """
        name: PREFIX
        services:
          whole: {image: PREFIX/whole, build: whole}
          child: {image: PREFIX/child, build: child}
          link: {image: PREFIX/link, build: link}
          hidden: {image: PREFIX/hidden, build: hidden}
          other: {image: PREFIX/other, build: other}
    """,
    "whole/Dockerfile": "FROM scratch\nCOPY . /\n",
    "child/Dockerfile": "FROM PREFIX/whole\nCOPY Dockerfile /\n",
    "link/Dockerfile": "FROM scratch\nCOPY . /\n",
    "hidden/Dockerfile": "FROM scratch\nCOPY . /\n",
    "hidden/.dockerignore": "d\n",
    "other/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
}


def write(lab: Lab) -> None:
    lab.write(PROJECT)
    for name in ("whole", "hidden", "other"):
        (lab.folder / name / "d").mkdir()
        (lab.folder / name / "d" / os.fsdecode(b"\xff.txt")).write_text("x")
    (lab.folder / "link/l").symlink_to(os.fsdecode(b"\xfe"))


@pytest.mark.engine
def test_the_newer_engine_refuses_them_and_the_plan_says_so(lab: Lab, newer: TemporaryEngine) -> None:
    write(lab)
    lab.environ = dict(newer.environ)
    plan = lab.plan()
    assert {name: one["action"] for name, one in plan.items()} == {
        "whole": "broken", "child": "broken", "link": "broken", "hidden": "build", "other": "build"
    }  # fmt: skip
    assert "refuses names that are not UTF-8: whole/d/\\xff.txt (rename it" in plan["whole"]["reasons"][0]
    assert "link/l (rename it" in plan["link"]["reasons"][0]
    done = lab.doit("-c", "build_optimized")
    assert done.returncode != 0
    assert {line.split()[1] for line in done.stderr.splitlines() if line.startswith("built ")} == {"hidden", "other"}
    for name in ("whole", "link"):  # BuildKit is the judge
        argv = ["--host", newer.address, "buildx", "build", "--builder=default", str(lab.folder / name)]
        # Of its two ends, either may be the first to say why.
        assert any("invalid UTF-8" in docker(*argv).stderr for _ in range(10))


@pytest.mark.engine
def test_the_engine_here_is_asked_as_it_is(lab: Lab) -> None:
    write(lab)
    version = docker("version", "--format", "{{.Server.Version}}").stdout.strip()
    wanted = "broken" if refused.refuses(version) else "build"
    assert lab.actions() == {"whole": wanted, "child": wanted, "link": wanted, "hidden": "build", "other": "build"}
    if wanted == "build":
        assert set(lab.build()) == {*lab.actions()}
        assert set(lab.actions().values()) == {"fresh"}


@pytest.mark.engine
def test_a_secret_without_its_file_is_said_before_anything_is_built(lab: Lab) -> None:
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                secrets: {token: {file: ./token.txt}}
                services:
                  app: {image: PREFIX/app, build: {context: app, secrets: [token]}}
                  child: {image: PREFIX/child, build: child}
                  other: {image: PREFIX/other, build: other}
            """,
            "app/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
            "child/Dockerfile": "FROM PREFIX/app\nCOPY Dockerfile /\n",
            "other/Dockerfile": "FROM scratch\nCOPY Dockerfile /other\n",
        }
    )
    plan, token = lab.plan(), lab.folder / "token.txt"
    assert {name: one["action"] for name, one in plan.items()} == {
        "app": "broken", "child": "broken", "other": "build"
    }  # fmt: skip
    where = f"{lab.folder / 'compose.yml'}:3"
    assert plan["app"]["reasons"] == [f"{where}: the secret token is to be read from {token}, which is not there"]
    done = lab.doit("build_optimized:app")
    assert done.returncode != 0
    assert f"read from {token}, which is not there" in done.stderr
    assert "log" not in done.stderr, "buildx was not asked"
    token.write_text("t")
    lab.build()
    token.unlink()
    assert lab.actions() == {"app": "fresh", "child": "fresh", "other": "fresh"}, "what is built needs none"


ASKING = """
    name: PREFIX
    services:
      said:
        image: PREFIX/said
        build:
          context: app
          provenance: mode=max
      listed: {image: PREFIX/listed, build: {context: app, sbom: true}}
      child: {image: PREFIX/child, build: {context: app, additional_contexts: {odd: "service:said"}, target: next}}
      plain: {image: PREFIX/plain, build: {context: app, provenance: false}}
"""
WANTING = """
    name: PREFIX
    services:
      wants:
        image: PREFIX/wants
        build:
          context: app
          privileged: true
      odd:
        image: PREFIX/odd
        build: {context: app, target: odd, entitlements: [network.host,
          of.tomorrow]}
"""


DOCKERFILE = "FROM scratch\nCOPY Dockerfile /\nFROM odd AS next\nFROM scratch AS odd\nCOPY Dockerfile /\n"


@pytest.mark.engine
def test_attestations_that_the_store_cannot_keep_are_refused_where_they_are_asked_for(
    lab: Lab, newer: TemporaryEngine
) -> None:
    lab.write({"compose.yml": ASKING, "app/Dockerfile": DOCKERFILE})
    lab.environ = dict(newer.environ)
    plan, file = lab.plan(), lab.folder / "compose.yml"
    if Engine(newer.address).uses_containerd_store():
        assert {one["action"] for one in plan.values()} == {"build"}
        return
    assert {name: one["action"] for name, one in plan.items()} == {
        "said": "broken", "listed": "broken", "child": "broken", "plain": "build"
    }  # fmt: skip
    assert plan["said"]["reasons"] == [
        f"{file}:8: build.provenance asks for an attestation, which the engine's classic store cannot keep (leave it"
        " out, turn containerd's store on, or set BUILDER_DRIVER=docker-container)"
    ]
    assert plan["listed"]["reasons"][0].startswith(f"{file}:9: build.sbom asks")


@pytest.mark.engine
def test_what_the_builder_does_not_allow_is_refused_where_it_is_asked_for(lab: Lab) -> None:
    """Only a build tells what that is."""
    lab.write({"compose.yml": WANTING, "app/Dockerfile": DOCKERFILE})
    file = lab.folder / "compose.yml"
    done = lab.doit("-c", "build_optimized:wants", "build_optimized:odd")
    assert done.returncode != 0
    for line, name, word in ((8, "wants", "security.insecure"), (11, "odd", "of.tomorrow")):
        sentence = (
            f"{file}:{line}: {name} asks for the entitlement {word}, which its builder does not grant (leave it out,"
        )
        assert sentence in done.stderr
