"""What an older version called its labels counts as if they had the names that they have now."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, LABEL, PARENTS, translated
from doit_images.core.planning.shared_image import SharedImage
from doit_images.share.index import Remembered
from tests import loopback
from tests.conftest import Lab, docker

FORMER = "vllm-swarm.build."
NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from([LABEL, FORMER, "", "vllm-swarm.", "vllm-swarm.build", "x."]),
        st.sampled_from(["own", "parents", "", "base"]),
    ),
)


@given(st.dictionaries(NAMES, st.text(max_size=3)))
def test_labels_are_read_by_the_names_of_today(labels: dict[str, str]) -> None:
    before, read = dict(labels), translated(labels)
    assert labels == before
    assert translated(read) == read
    assert not any(name.startswith(FORMER) for name in read)
    for name, value in labels.items():
        today = name.replace(FORMER, LABEL)
        assert read[today] == (labels.get(today, value))
    assert read.keys() == {name.replace(FORMER, LABEL) for name in labels}


def test_what_an_older_version_remembered_of_a_registry_counts(tmp_path: Path) -> None:
    memory = Remembered(tmp_path / "answers.json", 60.0)
    labels = {"own": "o", "parents": "", "fingerprint": "f"}
    former = {FORMER + name: value for name, value in labels.items()}
    memory.keep({"app": SharedImage("sha256:d", "sha256:c", "linux/amd64", former, "content")})
    assert memory.recent(["app"])["app"].labels == {INPUT_DIGEST: "o", PARENTS: "", FINGERPRINT: "f"}


FILES = {
    "compose.yml": """
        services:
          base: {image: PREFIX/base, build: {context: ., dockerfile: base.Dockerfile}}
          app:
            image: PREFIX/app
            build:
              context: .
              dockerfile: app.Dockerfile
              additional_contexts: {base: "service:base"}
        """,
    "base.Dockerfile": "FROM tst-busybox:1\nRUN head -c 9 /dev/urandom > /PREFIX\n",
    "app.Dockerfile": "FROM base\nCOPY app.txt /\n",
    "app.txt": "one",
}


def made_before(ref: str, names: list[str], folder: Path) -> None:
    """Let the engine hold, under all of these names, this image as version 0.2 made it: with its names of labels."""
    saved = folder / "saved.tar"
    assert docker("save", "--output", str(saved), ref).returncode == 0
    with tarfile.open(saved) as source, tarfile.open(folder / "before.tar", "w") as target:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))

        def read(name: str) -> bytes:
            file = source.extractfile(name)
            assert file
            return file.read()

        (image,) = json.loads(read("manifest.json"))
        config = json.loads(read(image["Config"]))
        labels = config["config"]["Labels"]
        config["config"]["Labels"] = {key.replace("doit-images.", FORMER): value for key, value in labels.items()}
        assert labels.keys().isdisjoint(config["config"]["Labels"])
        content = json.dumps(config).encode()
        path = f"{hashlib.sha256(content).hexdigest()}.json"
        add(path, content)
        for layer in dict.fromkeys(image["Layers"]):
            add(layer, read(layer))
        add("manifest.json", json.dumps([{**image, "Config": path, "RepoTags": names}]).encode())
    done = docker("load", "--input", str(folder / "before.tar"))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def shared(lab: Lab, busybox: str, tmp_path: Path) -> Iterator[tuple[Lab, loopback.Service]]:
    lab.write(FILES)
    with loopback.registry(tmp_path / "registry") as server:
        lab.environ = {"CACHE_REGISTRY": server.address}
        yield lab, server


def test_images_made_before_are_fresh_and_are_pulled(shared: tuple[Lab, loopback.Service], tmp_path: Path) -> None:
    """Here, in the shared registry, and as a parent of what is built now, which inherits the labels."""
    lab, server = shared
    assert lab.build() == {"base": "built", "app": "built"}
    ids = {}
    for name in ("base", "app"):
        names = [ref for ref in lab.images() if ref.startswith(f"{lab.prefix}/{name}:")]
        now = lab.image_id(lab.ref(name))
        made_before(lab.ref(name), names, tmp_path)
        ids[name] = lab.image_id(lab.ref(name))
        assert ids[name] != now
        for tag in loopback.tags(server, f"{lab.prefix}/{name}"):
            ref = f"{server.address}/{lab.prefix}/{name}:{tag}"
            docker("tag", ids[name], ref)
            assert docker("push", "--quiet", ref).returncode == 0
    assert lab.actions() == {"base": "fresh", "app": "fresh"}
    (lab.folder / "app.txt").write_text("two")
    assert lab.build() == {"app": "built"}
    assert lab.actions() == {"base": "fresh", "app": "fresh"}, "its own labels count, not those that it inherits"
    (lab.folder / "app.txt").write_text("one")
    assert lab.build() == {"app": "retagged"}
    lab.close()
    assert lab.build() == {"base": "pulled", "app": "pulled"}
    assert {name: lab.image_id(lab.ref(name)) for name in ids} == ids
    assert lab.actions() == {"base": "fresh", "app": "fresh"}
