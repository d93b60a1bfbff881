"""Does ``verify`` notice whatever differs from what the sources give, and nothing else?"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from doit_images.ci.verifying import content
from doit_images.ci.verifying.content import ImageContent
from doit_images.ci.verifying.difference import ONLY_FIRST, Difference, differences
from doit_images.ci.verifying.running import changes
from tests import loopback
from tests.conftest import ROOT, Lab, docker


def packed(entries: list[tuple[str, bytes, int]]) -> bytes:
    """An archive of files: path, content and time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data, time in entries:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mtime = len(data), time
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def saved(*layers: bytes, promised: list[bytes] | None = None, zipped: bool = False) -> io.BytesIO:
    """What ``docker save`` writes of an image with these layers."""
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in promised or layers]
    config = json.dumps({"rootfs": {"diff_ids": digests}}).encode()
    names = [f"blobs/{number}" for number in range(len(layers))]
    manifest = json.dumps([{"Config": "config", "Layers": names}]).encode()
    blobs = [(name, gzip.compress(layer) if zipped else layer) for name, layer in zip(names, layers, strict=True)]
    return io.BytesIO(
        packed([(name, data, 0) for name, data in [*blobs, ("config", config), ("manifest.json", manifest)]])
    )


def read(stream: io.BytesIO) -> ImageContent:
    [image] = content.read(stream)
    return image


ONE = packed([("a", b"1", 5), ("b", b"2", 5)])


@pytest.mark.parametrize("zipped", [False, True])
def test_layers_are_compared_by_their_bytes_and_named_with_what_differs(zipped: bool) -> None:
    first = read(saved(ONE, packed([("./f", b"x", 1), ("g", b"y", 1), ("gone", b"", 1)]), zipped=zipped))
    other = packed([("f", b"z", 1), ("g", b"y", 2)])
    second = read(saved(ONE, other))
    assert differences(first, second) == [
        Difference(2, "f", ("content",)),
        Difference(2, "g", ("time",)),
        Difference(2, "gone", (ONLY_FIRST,)),
    ]
    assert differences(first, first) == []
    [unnamed] = differences(read(saved(ONE)), read(saved(packed([("b", b"2", 5), ("a", b"1", 5)]))))
    assert (unnamed.layer, unnamed.path) == (1, "")
    assert [each.path for each in differences(read(saved(ONE)), first)] == ["f", "g", "gone"], "a layer more"


def test_a_layer_that_is_not_what_the_configuration_promises_is_found() -> None:
    assert read(saved(ONE, ONE)).damage() == []
    changed = read(saved(ONE, packed([("a", b"2", 5)]), promised=[ONE, ONE]))
    assert [line.partition(" (")[0] for line in changed.damage()] == ["layer 2 is not what its digest says"]
    assert read(saved(ONE, promised=[ONE, ONE])).damage() == ["2 layers are promised, and 1 are there"]


def test_what_a_container_wrote_where_programs_write_is_no_change_of_its_image() -> None:
    listed = [
        {"Path": "/app", "Kind": 0},
        {"Path": "/app/main.py", "Kind": 0},
        {"Path": "/etc", "Kind": 0},
        {"Path": "/etc/motd", "Kind": 2},
        {"Path": "/data", "Kind": 1},
        {"Path": "/run", "Kind": 0},
        {"Path": "/run/app.pid", "Kind": 1},
        {"Path": "/var", "Kind": 0},
        {"Path": "/var/log", "Kind": 0},
        {"Path": "/var/log/app", "Kind": 1},
        {"Path": "/usr/bin/more", "Kind": 1},
    ]
    assert changes(listed, {"/data"}) == [
        "/app/main.py was changed",
        "/etc/motd was deleted",
        "/usr/bin/more was added",
    ]


COMPOSE = """
name: PREFIX
services:
  app: {image: PREFIX/app, build: {context: app}, command: [sleep, "600"]}
  labelled: {image: PREFIX/labelled, build: {context: app, labels: {a: b}}}
"""


def verified(lab: Lab, *words: str, **environ: str) -> tuple[int, dict[str, Any]]:
    done = lab.doit("verify", "--json", *words, **environ)
    assert done.stdout, done.stderr
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["images"]}


def counted(folder: Path) -> str:
    """A PATH whose docker command tells the file ``saves`` in this folder how it is called."""
    real = shutil.which("docker")
    (folder / "docker").write_text(f'#!/bin/sh\necho "$*" >>{folder}/saves\nexec {real} "$@"\n')
    (folder / "docker").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_images_and_what_runs_are_what_the_sources_give_or_it_says_what_differs(
    lab: Lab, busybox: str, tmp_path: Path
) -> None:
    app = f"FROM {busybox}\nCOPY main /app/\nRUN touch -d @1 /app/main /app\n"
    lab.write({"compose.yml": COMPOSE, "app/Dockerfile": app, "app/main": "1"})
    status, found = verified(lab)
    assert (status != 0, found["app"]["differs"], found["app"]["image_id"]) == (True, ["never built here"], "")
    lab.build()
    ref = lab.ref("app")
    labels = ("--label", f"com.docker.compose.project={lab.prefix}", "--label", "com.docker.compose.service=app")
    container = docker("run", "--detach", "--rm", "--init", *labels, ref, "sleep", "600").stdout.strip()
    try:
        saves = counted(tmp_path)
        status, found = verified(lab, PATH=saves)
        assert (status, all(one["same"] for one in found.values())) == (0, True), found
        assert (tmp_path / "saves").read_text().count("save ") == 1, "what images share is read once"
        assert [*found["app"]["containers"].values()] == [[]], found
        docker("exec", container, "sh", "-c", "echo 2 > /app/main; echo > /tmp/x")
        status, found = verified(lab, ref)
        assert (status != 0, found.keys()) == (True, {"app"})
        assert [*found["app"]["containers"].values()] == [["/app/main was changed"]]
        # Somebody's own image, with the labels and all the names of ours.
        [tag] = [name for name in lab.images() if "/app:in-" in name]
        docker("commit", container, ref)
        docker("tag", ref, tag)
    finally:
        docker("rm", "--force", "--volumes", container)
    assert lab.actions()["app"] == "fresh", "the labels alone do not tell"
    done = lab.doit("verify", "app")
    assert done.returncode != 0
    assert "it is not the image that was recorded here" in done.stdout
    assert "not what these sources give: app" in done.stderr


def test_another_build_names_the_layer_and_the_file_that_differ(lab: Lab, busybox: str) -> None:
    steps = "RUN mkdir /a\nRUN cat /proc/sys/kernel/random/uuid > /a/now && echo > /a/same && touch -d @1 /a/same\n"
    app = f"FROM {busybox}\n{steps}"
    lab.write({"compose.yml": "services: {app: {image: PREFIX/app, build: {context: app}}}\n", "app/Dockerfile": app})
    lab.build()
    before = lab.images(), lab.image_id(lab.ref("app"))
    status, found = verified(lab, "--rebuild", "app")
    assert status != 0
    last = [
        each
        for each in found["app"]["rebuilt"]
        if each["layer"] == max(two["layer"] for two in found["app"]["rebuilt"])
    ]
    assert [each["path"] for each in last] == ["a", "a/now"], "the folder was written to"
    assert "content" in last[1]["what"]
    assert (lab.images(), lab.image_id(lab.ref("app"))) == before, "nothing of it stays, and nothing takes its place"
    assert lab.build() == {}


def test_another_result_in_the_shared_registry_is_named(lab: Lab, busybox: str, tmp_path: Path) -> None:
    app = f"FROM {busybox}\nRUN cat /proc/sys/kernel/random/uuid > /id\n"
    lab.write({"compose.yml": "services: {app: {image: PREFIX/app, build: {context: app}}}\n", "app/Dockerfile": app})
    with loopback.registry(tmp_path / "registry") as service:
        shared = {"CACHE_REGISTRY": service.address}
        assert lab.doit("build_optimized", **shared).returncode == 0
        assert lab.doit("verify", **shared).returncode == 0
        assert lab.doit("rebuild_optimized").returncode == 0  # without the registry: another one, here alone
        done = lab.doit("verify", **shared)
    assert done.returncode != 0
    assert "app: differs" in done.stdout
    assert "the shared registry has another result for the same inputs" in done.stdout


@pytest.mark.stack
def test_a_checkout_of_other_times_gives_the_same_layers(lab: Lab, tmp_path: Path, stack_images: None) -> None:
    for name in ("docker", "services"):
        shutil.copytree(ROOT / name, tmp_path / name, copy_function=shutil.copy)
    for name in ("docker-compose.optimized.yml", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path)
    for path in (tmp_path / "services").rglob("*"):
        os.utime(path, (1, 1))
    done = lab.doit("verify", "--rebuild", "auth", COMPOSE_FILE=str(tmp_path / "docker-compose.optimized.yml"))
    assert "another build gives the same layers" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
