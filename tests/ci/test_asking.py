"""Does ``verify --plan`` ask BuildKit, believe it, and tell a difference from a cache that is gone?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from doit_images.ci.verifying import composed
from doit_images.core.engine.client import Engine
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, PARENTS
from doit_images.core.run import Run
from tests.conftest import Lab, docker

COMPOSE = """
name: PREFIX
services:
  base: {image: PREFIX/base, build: {context: base}}
  app:
    image: PREFIX/app
    build:
      context: .
      dockerfile: app/Dockerfile
      args: {KIND: one, API_TOKEN: an0ther-value}
      additional_contexts: {base: "service:base", more: ./base}
      secrets: [token]
  child:
    image: PREFIX/child
    build:
      context: base
      dockerfile_inline: |
        FROM PREFIX/app
        COPY f /PREFIX/child
secrets: {token: {environment: TOKEN}}
"""


@pytest.fixture
def shop(lab: Lab, busybox: str) -> Lab:
    """A parent, what is built on it, and what is built on that by its name alone."""
    app = f"""\
    FROM {busybox} AS made
    ARG KIND
    WORKDIR /made
    ARG API_TOKEN
    RUN --mount=type=secret,id=token echo PREFIX $KIND $API_TOKEN > /made/kind
    FROM scratch AS nothing
    WORKDIR /x
    COPY <<END /x/text
    PREFIX
    END
    FROM base
    COPY --link --from=nothing /x /x
    RUN ["touch", "/a b"]
    COPY --from=made /made /made
    COPY --from=more f /more
    COPY . /PREFIX/
    """
    lab.write({"compose.yml": COMPOSE, "base/Dockerfile": f"FROM {busybox}\nCOPY f /f\n", "base/f": "1"})
    lab.write({"app/Dockerfile": app, ".dockerignore": "compose.yml\n"})
    return lab


def asked(lab: Lab, *words: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    done = lab.doit("verify", "--plan", "--json", *words)
    assert done.stdout, done.stderr
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["images"]}, done.stderr


def differ(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["step"] for name, one in found.items() if one["same"] is False}


def test_buildkit_agrees_until_an_image_is_changed_or_its_cache_is_gone(shop: Lab) -> None:
    status, found, _ = asked(shop)
    assert (status, {one["same"] for one in found.values()}) == (0, {None}), "what is not fresh is not asked about"
    shop.build()
    before = sorted(shop.images())
    status, found, _ = asked(shop)
    assert (status, {name: one["same"] for name, one in found.items()}) == (0, dict.fromkeys(found, True)), found
    steps = {name: one["steps"] for name, one in found.items()}
    assert steps in ({"base": 1, "app": 9, "child": 1}, {"base": 1, "app": 10, "child": 1}), "newer ones tell one more"
    assert sorted(shop.images()) == before
    cache = Engine().build_cache()
    # What lies on it keeps it: containerd's store takes the image that the child is built on for the same record.
    Engine().prune_build_cache([record.id for record in cache if f"/{shop.prefix}/" in record.what])
    for _ in range(2):  # the step that was stopped may be in the cache now, and nobody knows of what
        status, found, _ = asked(shop, "app")
        assert (status, found["app"]["same"]) == (0, None)
        assert "the cache is gone" in found["app"]["unasked"]


def test_a_reader_that_passes_over_something_is_found_out(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "argv", lambda *words: [sys.executable, "-m", "tests.blind_reader", *words])
    shop.environ = {"TOKEN": "s3cr3t-value"}
    shop.build()
    compose = shop.folder / "compose.yml"
    compose.write_text(compose.read_text().replace("KIND: one", "KIND: two"))
    assert set(shop.actions().values()) == {"fresh"}, "so it says"
    for _ in range(2):  # what was found stands, though the step that was stopped may be in the cache now
        status, found, said = asked(shop)
        assert status != 0, json.dumps(found, indent=0)
        assert differ(found).keys() == {"app"}
        assert "RUN" in differ(found)["app"]
        assert found["app"]["report"] in said
    kept = Path(found["app"]["report"])
    text = kept.read_text()
    report = json.loads(text)
    assert report["composed"]["args"]["KIND"] == "two"
    assert {one["name"]: one["action"] for one in report["plan"]["images"]} == {"base": "fresh", "app": "fresh"}
    assert report["versions"]["engine"]
    assert "***" in differ(found)["app"]
    assert not [value for value in ("s3cr3t-value", "an0ther-value") if value in text or value in json.dumps(found)]
    monkeypatch.undo()
    compose.write_text(compose.read_text() + "# read anew\n")
    shop.build()
    status, found, _ = asked(shop)
    assert (status, differ(found)) == (0, {})
    assert not kept.exists()


def test_a_name_that_somebody_set_by_hand_is_found_out(lab: Lab) -> None:
    lab.write({"compose.yml": "services: {app: {image: PREFIX/app, build: {context: app}}}\n"})
    lab.write({"app/Dockerfile": "FROM scratch\nCOPY main /PREFIX\n", "app/main": "1"})
    [inputs] = Run((lab.folder / "compose.yml",)).planner.declared().values()
    labels = {INPUT_DIGEST: inputs.input_digest, FINGERPRINT: inputs.fingerprint, PARENTS: ""}
    lab.write({"app/main": "another"})
    words = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
    tag = f"{lab.prefix}/app:in-{inputs.fingerprint[:16]}"
    docker("buildx", "build", "--builder=default", "--provenance=false", *words, "-t", tag, f"{lab.folder}/app")
    docker("tag", tag, lab.ref("app"))
    lab.write({"app/main": "1"})
    assert lab.actions() == {"app": "fresh"}
    status, found, _ = asked(lab)
    assert (status != 0, list(differ(found).values())) == (True, [f"[1/1] COPY main /{lab.prefix}"]), found


def test_what_compose_says_is_told_to_buildx_whole() -> None:
    build = {
        "context": "/p", "dockerfile": "d/Dockerfile", "args": {"A": "1", "B": None, "C": "3"}, "target": "t",
        "additional_contexts": {"x": "/x"}, "secrets": [{"source": "s", "target": "t"}, "u"], "ssh": ["default"],
        "extra_hosts": ["a=1.2.3.4"], "ulimits": {"nofile": 3, "nproc": {"soft": 1, "hard": 2}}, "shm_size": "9",
        "network": "host", "privileged": True, "labels": {"l": "m"},
    }  # fmt: skip
    config = {
        "name": "p",
        "services": {"a": {"build": build, "platform": "linux/arm64"}, "b": {"image": "busybox"}},
        "secrets": {"s": {"file": "/s"}, "u": {"environment": "U"}},
    }
    targets = composed.targets(config)
    assert composed.refs(config) == {"a": "p-a"}
    assert composed.options(targets["a"], {"C": "3"}) == [
        *("--build-arg", "A=1", "--build-arg", "B", "--build-arg", "C", "--file", "/p/d/Dockerfile", "--target", "t"),
        *("--platform", "linux/arm64", "--network", "host", "--shm-size", "9", "--secret", "id=t,src=/s"),
        *(
            "--secret",
            "id=u,env=U",
            "--ssh",
            "default",
            "--ulimit",
            "nofile=3",
            "--ulimit",
            "nproc=1:2",
            "--add-host",
            "a:1.2.3.4",
        ),
        *("--allow", "security.insecure", "--allow", "network.host", "--build-context", "x=/x", "--label", "l=m", "/p"),
    ]
    remote = composed.targets({"services": {"a": {"build": {"context": "https://example.org/a.git"}}}})["a"]
    assert remote == {"context": "https://example.org/a.git", "dockerfile": "Dockerfile"}
