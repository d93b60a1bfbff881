"""An image with attestations: each build gives another index, and what is in it stays the same for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.newer_engine import newer_engine
from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.engine.client import Engine
from tests import loopback
from tests.conftest import Lab

pytestmark = pytest.mark.engine

PROJECT = {
    "compose.yml": """
        name: PREFIX
        services:
          base: {image: PREFIX/base, build: {context: base, provenance: mode=max}}
          app: {image: PREFIX/app, build: app}
    """,
    "base/Dockerfile": "FROM scratch\nCOPY f /\n",
    "base/f": "1",
    "app/Dockerfile": "FROM PREFIX/base\nCOPY f /g\n",
    "app/f": "2",
}
FRESH = {"base": "fresh", "app": "fresh"}


def kinds(engine: Engine, ref: str) -> list[str]:
    """What the index of an image in containerd's store holds."""
    local_image = engine.snapshot().get(ref)
    assert local_image is not None
    return [one["Kind"] for one in engine._call("GET", f"/images/{local_image.id}/json?manifests=1")["Manifests"]]


@pytest.fixture(scope="module")
def far(newer: TemporaryEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dedicated BuildKit."""
    folder = tmp_path_factory.mktemp("far")
    with (
        newer_engine("tst-attest-", containerd_store=True) as engine,
        loopback.grpc_of_engine(folder, engine.address.removeprefix("unix://")) as endpoint,
    ):
        yield endpoint


def test_from_a_dedicated_builder(lab: Lab, newer: TemporaryEngine, far: str) -> None:
    """The classic store gets the image alone, containerd's the attestation too."""
    lab.write(PROJECT)
    name = f"cch-{lab.prefix}"
    builder = {"BUILDER_DRIVER": "remote", "BUILDER_NAME": name, "BUILDER_ENDPOINTS": far}
    lab.environ = {**newer.environ, **builder}
    assert lab.build() == {"base": "built", "app": "built"}
    assert lab.actions() == FRESH
    (lab.folder / "app/f").write_text("3")
    assert lab.build() == {"app": "built"}
    assert lab.actions() == FRESH
    engine = Engine(newer.address)
    if engine.uses_containerd_store():
        assert "image" in kinds(engine, lab.ref("base"))


def test_through_a_registry(lab: Lab, newer: TemporaryEngine, tmp_path: Path) -> None:
    """Who pulls it gets the image alone: the attestation stays in the registry, in the index under the tag."""
    engine = Engine(newer.address)
    if not engine.uses_containerd_store():
        return  # the classic store refuses attestations: test_bake.py
    lab.write(PROJECT)
    with loopback.registry(tmp_path / "registry") as server:
        lab.environ = {**newer.environ, "CACHE_REGISTRY": server.address}
        assert lab.build() == {"base": "built", "app": "built"}
        for ref in [name for name in engine.snapshot().by_name if name.startswith(f"{lab.prefix}/")]:
            engine.untag(ref)
        assert lab.actions() == {"base": "pull", "app": "pull"}
        assert lab.build() == {"base": "pulled", "app": "pulled"}
        assert lab.actions() == FRESH
        assert kinds(engine, lab.ref("base")) == ["image"]
