"""Images that a stack mounts (volumes of ``type: image``): built before it starts, what containers get, kept while it
is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.conftest import docker
from tests.stack.test_stack import Stack

PROJECT = {
    "compose.yml": """
        name: PREFIX
        services:
          weights: {image: PREFIX/weights, build: {context: weights}, scale: 0}
          other: {image: PREFIX/other, build: {context: other}, scale: 0}
          web:
            image: tst-busybox:1
            command: [sleep, "1000"]
            init: true
            stop_grace_period: 0s
            volumes: [{type: image, source: PREFIX/weights, target: /weights, image: {subpath: of}}]
        """,
    "weights/Dockerfile": "FROM scratch\nCOPY file /of/file\n",
    "weights/file": "first of PREFIX\n",
    "other/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
}


@pytest.fixture
def stack(newer: TemporaryEngine, busybox: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    newer.load(busybox)
    for name, value in newer.environ.items():
        monkeypatch.setenv(name, value)
    one = Stack(tmp_path)
    one.write(PROJECT)
    yield one
    one.close()


def kept(stack: Stack) -> set[str]:
    return {ref for ref in stack.images() if "/weights:in-" in ref}


def test_an_image_that_is_mounted_is_built_current_and_kept(stack: Stack) -> None:
    def up() -> str:
        done = stack.doit("up_optimized", "web")
        assert done.returncode == 0, done.stderr
        return docker("exec", f"{stack.prefix}-web-1", "cat", "/weights/file").stdout

    assert up() == f"first of {stack.prefix}\n"
    assert {ref.partition(":")[0] for ref in stack.images()} == {f"{stack.prefix}/weights"}, "no other is built"
    before, first = stack.ids(), kept(stack)
    up()
    assert stack.ids() == before

    stack.write({"weights/file": "second of PREFIX\n"})
    assert stack.doit("build_optimized:weights").returncode == 0
    done = stack.doit("cache_prune", "--all", "--yes")
    assert "refuses" not in done.stderr, "the engine need not be tried"
    assert first < kept(stack), f"the stack still mounts it: {done.stderr}"
    assert up() == f"second of {stack.prefix}\n"
    done = stack.doit("cache_prune", "--all", "--yes")
    assert kept(stack).isdisjoint(first), done.stderr

    docker("tag", "tst-busybox:1", f"{stack.prefix}/weights")
    stack.down()
    assert up() == f"second of {stack.prefix}\n", "whoever has its name"


@pytest.mark.engine
def test_an_engine_that_cannot_mount_images_says_so(busybox: str, tmp_path: Path) -> None:
    version = docker("version", "--format", "{{.Server.Version}}").stdout
    one = Stack(tmp_path)
    one.write({**PROJECT, "compose.yml": PROJECT["compose.yml"].replace(", image: {subpath: of}", "")})
    try:
        done = one.doit("up_optimized", "web")
    finally:
        one.close()
    knows = int(version.partition(".")[0]) >= 28
    assert ("Engine 28 is the first" in done.stderr) != knows, done.stderr
    assert (done.returncode == 0) == knows
