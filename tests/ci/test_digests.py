"""By which digests is what was tested here deployed elsewhere?"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from doit_images.ci import locks
from doit_images.ci.digests import PinnedService, _taken, complete, kustomization, override
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Service
from doit_images.core.engine.client import snapshot_of
from doit_images.share import keep_tags
from doit_images.share.no_answer import Unavailable
from tests import loopback
from tests.conftest import Lab, needs_docker_command

IMAGES = [
    PinnedService("api", "shop/api:optimized", f"reg.example:5000/shop/api@sha256:{'1' * 64}", fingerprint="f"),
    PinnedService("db", "redis:8", f"redis@sha256:{'2' * 64}"),
]


@needs_docker_command
def test_the_override_pins_each_service_and_builds_nothing(tmp_path: Path) -> None:
    declared = {"api": {"image": "shop/api:optimized", "build": "."}, "db": {"image": "redis:8"}}
    (tmp_path / "compose.yml").write_text(json.dumps({"services": declared}))
    (tmp_path / "lock.yml").write_text(override(IMAGES))
    resolved = config(tmp_path / "compose.yml", tmp_path / "lock.yml")
    assert {name: one["image"] for name, one in resolved.items()} == {one.service: one.reference for one in IMAGES}
    assert not any("build" in one for one in resolved.values())


def config(*files: Path) -> dict[str, Any]:
    """The services of these files, as Compose reads them."""
    argv = ["docker", "compose", *(word for file in files for word in ("-f", str(file))), "config", "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def test_kubernetes_gets_images_by_the_names_of_the_compose_file() -> None:
    component = yaml.safe_load(kustomization([*IMAGES, IMAGES[0]._replace(service="second")]))
    assert (component["kind"], len(component["images"])) == ("Component", 2)
    assert component["images"][0] == {
        "name": "shop/api",
        "newName": "reg.example:5000/shop/api",
        "digest": f"sha256:{'1' * 64}",
    }


def test_a_document_is_complete_or_says_what_is_missing() -> None:
    assert complete(IMAGES) == IMAGES
    with pytest.raises(UserError, match=r"^web has no digest: it was never built$"):
        complete([*IMAGES, PinnedService("web", "shop/web", "", "it was never built")])


@pytest.mark.parametrize(
    ("write", "why"),
    [(True, "it refuses the credentials"), (False, "CACHE_WRITE is off on this machine")],
)
def test_what_the_registry_does_not_keep_is_locked_and_told(
    monkeypatch: pytest.MonkeyPatch, write: bool, why: str
) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("refuses the credentials")

    monkeypatch.setattr(keep_tags, "keep", refuse)
    told: list[str] = []
    run: Any = SimpleNamespace(
        settings=SimpleNamespace(cache_registry="reg.example:5000", cache_write=write),
        events=SimpleNamespace(say=told.append),
        peers=SimpleNamespace(share=SimpleNamespace(registry=None)),
    )
    assert locks.keep(run, IMAGES) == ""
    so = "what is locked is not kept there, and `registry_prune` may remove it"
    remedy = "lock it on a machine that may push"
    assert told == [f"the shared registry reg.example:5000: {so}: {why} ({remedy})"]
    assert locks.keep(run, IMAGES[1:]) == "", "none of these is the registry's"
    assert len(told) == 1


def test_an_image_from_elsewhere_has_the_digest_that_it_was_pulled_by() -> None:
    digest = f"sha256:{'3' * 64}"
    listed = [{"Id": "a", "RepoTags": ["redis:8", "own:1"], "RepoDigests": [f"other@{digest}x", f"redis@{digest}"]}]
    snapshot = snapshot_of(listed, "linux/amd64")
    assert _taken(Service("db", "redis:8", False, 1, {}), snapshot).reference == f"redis@{digest}"
    assert _taken(Service("db", f"redis@{digest}", False, 1, {}), snapshot).reference == f"redis@{digest}"
    assert "never pulled" in _taken(Service("db", "own:1", False, 1, {}), snapshot).why
    assert "does not hold" in _taken(Service("db", "gone:1", False, 1, {}), snapshot).why


def test_what_is_pinned_is_what_the_registry_holds(lab: Lab, tmp_path: Path) -> None:
    """Until it was pushed there is no document, and none again once a file was edited."""
    compose = "services: {app: {image: PREFIX/app, build: .}}\n"
    lab.write({"compose.yml": compose, "Dockerfile": "FROM scratch\nCOPY f /\n", "f": f"{lab.prefix}\n"})
    lab.build()
    alone = lab.doit("images", "--lock")
    assert (alone.returncode, alone.stdout) == (1, "")
    assert "app has no digest: CACHE_REGISTRY is not set" in alone.stderr
    with loopback.registry(tmp_path / "registry") as server:
        lab.environ["CACHE_REGISTRY"] = server.address
        assert "does not hold it" in lab.doit("images").stdout
        pushed = lab.doit("cache_export")
        assert pushed.returncode == 0, pushed.stderr
        (image,) = json.loads(lab.doit("images", "--digests").stdout)["images"]
        name, _, digest = image["reference"].partition("@")
        path = name.removeprefix(f"{server.address}/")
        asked = urllib.request.Request(
            f"http://{server.address}/v2/{path}/manifests/{digest}", headers={"Accept": "*/*"}
        )
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200
        (lab.folder / "f").write_text("2\n")
        stale = lab.doit("images", "--kustomize")
        assert (stale.returncode, stale.stdout) == (1, "")
        assert "app has no digest: it is not built from what is here (`f` changed)" in stale.stderr
