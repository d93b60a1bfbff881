"""What the engine holds, from what it answers."""

from __future__ import annotations

import hashlib
import json
import math
import re
import select
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.engine.api import Api
from doit_images.core.engine.client import Engine, Snapshot, image_config, normalise, snapshot_of
from doit_images.core.engine.endpoint import endpoint
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST
from tests.conftest import docker


@pytest.mark.parametrize(
    ("ref", "listed"),
    [
        ("python", "python:latest"),
        ("python:3.13", "python:3.13"),
        ("docker.io/library/python:3.13", "python:3.13"),
        ("library/python:3.13", "python:3.13"),
        ("docker.io/app/auth", "app/auth:latest"),
        ("localhost:5000/auth", "localhost:5000/auth:latest"),
        ("python:3.13@sha256:ab", "python@sha256:ab"),
        ("python@sha256:ab", "python@sha256:ab"),
    ],
)
def test_normalise(ref: str, listed: str) -> None:
    assert normalise(ref) == listed
    assert normalise(listed) == listed


IMAGE: dict[str, Any] = {
    "Os": "linux",
    "Architecture": "amd64",
    "Created": "2026-01-01T00:00:00Z",
    "RootFS": {"Layers": ["sha256:1", "sha256:2"]},
    "Config": {"Env": ["PATH=/bin", "A=b=c"], "Labels": {"x": "y"}, "OnBuild": ["COPY . /"], "User": "app"},
}


def test_facts() -> None:
    facts = image_config(IMAGE)
    assert (facts.platform, facts.env, facts.onbuild) == ("linux/amd64", {"PATH": "/bin", "A": "b=c"}, ("COPY . /",))


def test_an_image_without_a_history_has_the_layers_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containerd's store tells of one that was made from nothing and of nothing."""
    answers = {"/images/x/json": {"RootFS": {"Layers": None}}, "/images/x/history": None}
    monkeypatch.setattr(Api, "call", lambda self, method, path: answers[path])
    assert Engine().layers("x") == ()


@pytest.mark.parametrize("label", [FINGERPRINT, "vllm-swarm.build.fingerprint"])
def test_content_ignores_times_and_our_own_labels_by_the_names_of_all_versions(label: str) -> None:
    ours = {"x": "y", label: "f"}
    other = {**IMAGE, "Created": "2027-01-01T00:00:00Z", "Config": {**IMAGE["Config"], "Labels": ours}}
    assert image_config(other).content == image_config(IMAGE).content


@pytest.mark.parametrize(
    "change",
    [
        {"RootFS": {"Layers": ["sha256:1", "sha256:3"]}},
        {"Architecture": "arm64"},
        {"Variant": "v8"},
        {"Author": "somebody"},
        {"OsVersion": "10.0.1"},
        {"Config": {**IMAGE["Config"], "User": "root"}},
        {"Config": {**IMAGE["Config"], "Labels": {"x": "z"}}},
        {"Config": {**IMAGE["Config"], "Env": ["PATH=/sbin"]}},
    ],
)
def test_content_is_everything_that_a_child_gets(change: dict[str, object]) -> None:
    assert image_config({**IMAGE, **change}).content != image_config(IMAGE).content


@pytest.mark.parametrize("own", [INPUT_DIGEST, "vllm-swarm.build.own"])
def test_a_snapshot_finds_images_by_any_name_and_by_what_they_were_made_from(own: str) -> None:
    label = {own: "o"}
    one = {"Id": "sha256:1", "RepoTags": ["a:1", "b:latest"], "RepoDigests": ["a@sha256:9"], "Labels": label, "Size": 7}
    none = {"Id": "sha256:2", "RepoTags": None, "RepoDigests": ["<none>@<none>"], "Labels": None}
    snapshot = snapshot_of([one, none], "linux/amd64")
    found = snapshot.get("docker.io/library/b")
    assert found is not None
    assert (found.id, found.size) == ("sha256:1", 7)
    assert snapshot.get("a@sha256:9") == snapshot.get("a:1") == found
    assert snapshot.get("c") is None
    assert snapshot.by_input_digest["o"] == (found,)
    assert "p" not in snapshot.by_input_digest


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=30))
def test_normalising_twice_changes_nothing(ref: str) -> None:
    assert normalise(normalise(ref)) == normalise(ref)


def test_endpoint(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert endpoint(home) == "unix:///var/run/docker.sock"
    assert endpoint({**home, "DOCKER_HOST": "tcp://a:1"}) == "tcp://a:1"
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # sha256 of "test"
    meta = tmp_path / ".docker/contexts/meta" / digest / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///run/user/1/docker.sock"}}}))
    assert endpoint({**home, "DOCKER_CONTEXT": "test"}) == "unix:///run/user/1/docker.sock"
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "test"}')
    assert endpoint(home) == "unix:///run/user/1/docker.sock"


def contexts(folder: Path, **meta: str) -> dict[str, str]:
    """The environment of a docker command that has these contexts; what each file holds, by its name."""
    for name, text in meta.items():
        file = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return {"DOCKER_CONFIG": str(folder)}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("staging", "there is no Docker context 'staging' (unset DOCKER_CONTEXT, or `docker context create` it)"),
        ("devv", "there is no Docker context 'devv' (did you mean 'dev'?)"),
        ("torn", "contexts/meta/"),
    ],
)
def test_a_context_that_leads_nowhere_is_no_way_to_the_default_engine(tmp_path: Path, wanted: str, said: str) -> None:
    meta = json.dumps({"Name": "dev", "Endpoints": {"docker": {"Host": "unix:///dev.sock"}}})
    environ = contexts(tmp_path, dev=meta, torn="{")
    assert endpoint({**environ, "DOCKER_CONTEXT": "dev"}) == "unix:///dev.sock"
    assert endpoint({**environ, "DOCKER_CONTEXT": wanted, "DOCKER_HOST": "tcp://a:1"}) == "tcp://a:1"
    with pytest.raises(UserError, match=re.escape(said)):
        endpoint({**environ, "DOCKER_CONTEXT": wanted})
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "gone"}))
    with pytest.raises(UserError, match="`docker context use default`"):
        endpoint(environ)


@pytest.mark.parametrize(
    ("address", "why"),
    [("unix:///nowhere/docker.sock", "No such file or directory"), ("tcp://127.0.0.1:9", "Connection refused")],
)
def test_a_silent_engine_is_said_in_one_sentence(address: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        Engine(address).snapshot()
    assert str(caught.value) == f"no Docker engine answers at {address}: {why} (start it, or let ./doitw do so)"


@pytest.mark.parametrize(
    ("environ", "remedy"),
    [
        ({"DOCKER_HOST": "tcp://127.0.0.1:9"}, "DOCKER_HOST leads there: start that engine, or unset it"),
        ({"DOCKER_CONTEXT": "dev"}, "the context 'dev' leads there: start that engine, or use another one"),
    ],
)
def test_who_named_an_engine_that_is_down_is_told_so(
    tmp_path: Path, environ: dict[str, str], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = json.dumps({"Name": "dev", "Endpoints": {"docker": {"Host": "tcp://127.0.0.1:9"}}})
    for name, value in {"DOCKER_HOST": "", **contexts(tmp_path, dev=meta), **environ}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        Engine().snapshot()
    assert caught.value.remedy == remedy


@pytest.mark.engine
def test_the_real_engine_by_socket_and_by_sdk_says_the_same(busybox: str) -> None:
    by_socket = Engine().snapshot().get(busybox)
    sdk = Engine()
    sdk._api._ask_now = sdk._api._over_sdk  # type: ignore[method-assign]
    assert by_socket is not None
    by_sdk = sdk.snapshot().get(busybox)
    assert by_sdk is not None
    assert by_sdk.id == by_socket.id
    assert sdk.config_of(by_sdk.id) == Engine().config_of(by_socket.id)
    layers = Engine().layers(by_socket.id)
    assert len(layers) == 2
    assert layers[0][1] > 1_000_000


@pytest.mark.engine
def test_tag_and_untag(busybox: str) -> None:
    local_image = Engine().snapshot().get(busybox)
    assert local_image is not None
    Engine().tag(local_image.id, "tst-engine/tagged:1")
    try:
        assert docker("image", "inspect", "--format", "{{.Id}}", "tst-engine/tagged:1").stdout.strip() == local_image.id
    finally:
        Engine().untag("tst-engine/tagged:1")
    assert docker("image", "inspect", "tst-engine/tagged:1").returncode != 0
    Engine().untag("tst-engine/tagged:1")  # somebody else took it away: that is no trouble
    with pytest.raises(UserError, match=r"holds no image sha256:0+ any more"):
        Engine().tag("sha256:" + "0" * 64, "tst-engine/tagged:1")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("meanwhile", "sees"), [("nothing", False), ("forgotten", True), ("too long", True), ("asked again", True)]
)
def test_what_was_asked_ahead(busybox: str, meanwhile: str, sees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ref = Engine(), f"tst-engine-ahead:{meanwhile.replace(' ', '-')}"
    image_id = docker("inspect", "--format", "{{.Id}}", busybox).stdout.strip()
    monkeypatch.setattr("doit_images.core.engine.api._AHEAD_SECONDS", math.inf)
    engine.ask()
    for _, connection in engine._api._asked.values():
        select.select([connection.sock], [], [])  # it has answered
    try:
        engine.tag(image_id, ref)
        if meanwhile == "forgotten":
            engine.forget()
        elif meanwhile == "too long":
            monkeypatch.setattr("doit_images.core.engine.api._AHEAD_SECONDS", 0.0)
        elif meanwhile == "asked again":
            engine.ask()
        assert (engine.snapshot().get(ref) is not None) is sees
        assert engine.snapshot().get(ref) is not None, "an answer is taken once"
    finally:
        engine.untag(ref)


@pytest.mark.parametrize("address", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9"])
def test_to_ask_ahead_needs_no_engine(address: str) -> None:
    engine = Engine(address)
    engine.ask()
    engine.forget()


LABELS = {INPUT_DIGEST: "digest"}
NAMES = ["app/a:latest", "app/a:in-01", "app/b:latest", "other:1"]


@given(
    owners=st.lists(st.sampled_from([None, 0, 1, 2]), min_size=len(NAMES), max_size=len(NAMES)),
    image=st.integers(0, 2),
    refs=st.lists(st.sampled_from([*NAMES, "new:1"]), unique=True),
)
def test_names_that_were_given_count_as_if_the_engine_had_listed_them(
    owners: list[int | None], image: int, refs: list[str]
) -> None:
    def listed(names: dict[str, int]) -> list[dict[str, Any]]:
        return [
            {
                "Id": f"id-{number}",
                "RepoTags": sorted(name for name in names if names[name] == number),
                "Labels": LABELS,
            }
            for number in range(3)
        ]

    before = {name: owner for name, owner in zip(NAMES, owners, strict=True) if owner is not None}
    expected = snapshot_of(listed(before | dict.fromkeys(refs, image)), "linux/amd64")
    found = snapshot_of(listed(before), "linux/amd64").with_names(f"id-{image}", refs)
    assert found is not None

    def plain(snapshot: Snapshot) -> Any:
        images = [
            (digest, sorted((each.id, sorted(each.tags)) for each in some))
            for digest, some in snapshot.by_input_digest.items()
        ]
        return {name: (each.id, sorted(each.tags)) for name, each in snapshot.by_name.items()}, images

    assert plain(found) == plain(expected)
    assert snapshot_of(listed(before), "linux/amd64").with_names("id-gone", refs) is None
