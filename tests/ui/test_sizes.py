"""Bytes: what an image alone holds, what it shares, which of its files could be removed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.temporary_engine import temporary_engine
from doit_images.core.engine.client import Engine
from doit_images.pruning import image_contents as sizes
from doit_images.pruning.image_contents import LayerFile, Measured, Removable
from doit_images.stack.layers import Disk, Layer, chained
from doit_images.ui import sizes_view


def image(ref: str, *layers: tuple[str, int]) -> Measured:
    return Measured(ref, f"sha256:{ref}", sum(size for _, size in layers), tuple(chained(layers)))


BASE = image("base", ("d1", 100), ("d2", 10))
APP = image("app", ("d1", 100), ("d2", 10), ("d3", 5))
OTHER = image("other", ("d1", 100), ("d3", 5))


def test_a_layer_is_shared_only_on_the_same_layers_below() -> None:
    disk = Disk({"base": BASE.parts, "app": APP.parts, "other": OTHER.parts})
    assert disk.together == 100 + 10 + 5 + 5  # d3 on d2 is another layer than d3 on d1
    assert {name: disk.unique(name) for name in ("base", "app", "other")} == {"base": 0, "app": 5, "other": 5}
    assert disk.users(APP.layers[1].chain) == ["app", "base"]
    assert disk.remove("app") == 5
    assert (disk.unique("base"), disk.together, "app" in disk) == (10, 100 + 10 + 5, False)


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=5), max_size=4))
def test_own_and_shared_bytes_never_exceed_what_is_on_the_disk(stacks: list[list[tuple[str, int]]]) -> None:
    # a digest has one size, whatever it lies on
    images = {str(at): image(str(at), *((name, ord(name)) for name, _ in stack)) for at, stack in enumerate(stacks)}
    disk = Disk({name: one.parts for name, one in images.items()})
    own = sum(disk.unique(name) for name in images)
    assert own <= disk.together <= sum(one.size for one in images.values())
    if len(images) == 1:
        assert own == disk.together


def test_files_that_a_later_layer_covers() -> None:
    files = [
        LayerFile("etc/a", 10, 0),
        LayerFile("etc/b", 20, 0),
        LayerFile("opt/x/one", 1, 0),
        LayerFile("opt/x/two", 2, 0),
        LayerFile("var/c", 5, 0),
        LayerFile("etc/a", 11, 1),
        LayerFile("etc/.wh.b", 0, 1),
        LayerFile("opt/.wh.x", 0, 1),
        LayerFile("var/.wh..wh..opq", 0, 2),
        LayerFile("var/new", 7, 2),
    ]
    kept, gone = sizes.remaining(files)
    assert {(file.path, file.size) for file in kept} == {("etc/a", 11), ("var/new", 7)}
    assert sum(file.size for file in gone) == 10 + 20 + 1 + 2 + 5
    assert sizes.content_of(files).largest[0] == LayerFile("etc/a", 11, 1)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("usr/libexec/gcc/x86_64-linux-gnu/14/cc1plus", "compilers and headers"),
        ("usr/bin/x86_64-linux-gnu-gcc-14", "compilers and headers"),
        ("usr/bin/gcc", "compilers and headers"),
        ("var/lib/apt/lists/deb.example_dists", "what the package manager downloaded"),
        ("root/.cache/pip/http/1", "what the package manager downloaded"),
        ("usr/share/doc/python3/copyright", "documentation and translations"),
        ("usr/lib/python3/dist-packages/pip/__init__.py", "installers"),
        ("opt/venv/lib/python3.13/site-packages/numpy/tests/test_a.py", "tests of packages"),
        ("app/.git/objects/pack/p", "git data"),
        ("opt/venv/lib/python3.13/site-packages/numpy/x.pyi", "stubs and sources of extensions"),
        ("usr/lib/x86_64-linux-gnu/perl/5.40.1/B.pm", "Perl"),
    ],
)
def test_what_could_go(path: str, what: str) -> None:
    assert [(one.what, one.size, one.files) for one in sizes.content_of([LayerFile(path, 3, 0)]).could_go] == [
        (what, 3, 1)
    ]


@pytest.mark.parametrize(
    "path",
    [
        "usr/bin/python3.13",
        "app/auth/tests/plan.py",
        "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
        "usr/bin/asset",
        "opt/venv/lib/python3.13/site-packages/pipeline/core.py",
        "app/documents/doc/a.txt",
    ],
)
def test_what_is_needed_is_not_called_superfluous(path: str) -> None:
    assert sizes.content_of([LayerFile(path, 3, 0)]).could_go == ()


def archive(parts: dict[str, bytes]) -> io.BytesIO:
    """An archive of these files, in the order of their names, as the engine writes those of `docker save`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in sorted(parts.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    out.seek(0)
    return out


def test_an_archive_is_read_layer_by_layer_whatever_their_order() -> None:
    images = {"blobs/sha256/cafe": ["z/layer.tar", "blobs/sha256/b"], "beef.json": ["z/layer.tar"], "empty.json": []}
    digests = {"z/layer.tar": "d1", "blobs/sha256/b": "d2"}
    stream = archive(
        {
            "z/layer.tar": archive({"./a": b"old"}).getvalue(),
            "blobs/sha256/b": archive({".wh.x": b"", "a": b"newer"}).getvalue(),
            "manifest.json": json.dumps(
                [{"Config": name, "Layers": layers} for name, layers in images.items()]
            ).encode(),
            **{
                name: json.dumps({"rootfs": {"diff_ids": [digests[layer] for layer in layers]}}).encode()
                for name, layers in images.items()
            },
        }
    )
    assert sizes.read_archive(stream) == {
        image("cafe", ("d1", 3), ("d2", 5)).chain: [
            LayerFile("a", 3, 0), LayerFile(".wh.x", 0, 1), LayerFile("a", 5, 1),
        ],
        "d1": [LayerFile("a", 3, 0)],
        "": [],
    }  # fmt: skip


def test_the_table_tells_what_is_smaller_shared_and_missing(capsys: pytest.CaptureFixture[str]) -> None:
    standard = {"app": image("app:standard", ("s", 1000))}
    content = sizes.SizeReport((LayerFile("bin/big", 4, 1),), (Removable("Perl", 3, 2, "remove it"),))
    contents = {one.chain: content for one in (BASE, APP, standard["app"])}
    told = sizes_view.as_data(
        {"app": ("app:standard", "app"), "base": ("", "base"), "lost": ("", "lost:1")},
        [standard, {"app": APP, "base": BASE}],
        contents,
    )
    app, base, lost = told["images"]
    assert app["smaller"] == 1 - 115 / 1000
    assert app["optimized"]["unique_bytes"] == 5
    assert [layer["shared_with"] for layer in app["optimized"]["layers"]] == [["base"], ["base"], []]
    assert base["smaller"] is None
    assert lost["optimized"] == {"ref": "lost:1", "missing": True}
    sizes_view.print_text(told)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["app", "1kB", "115B", "88.5%", "5B", "3", "base"]
    assert any("could be removed: Perl, 2 files (remove it)" in line for line in lines)
    assert lines[-1] == "not in the engine: lost:1"


def test_two_settings_are_called_by_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    content = {BASE.chain: sizes.SizeReport((), ()), APP.chain: sizes.SizeReport((), ())}
    told = sizes_view.as_data({"a": ("a", "a:in-1")}, [{"a": BASE}, {"a": APP}], content, ("as they are", "SIZE=small"))
    sizes_view.print_text(told)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "image"
    assert all(way in lines[0] for way in ("as they are", "SIZE=small"))
    assert lines[1].split()[1:3] == ["110B", "115B"]


def test_images_without_others_to_compare_with_have_one_size(capsys: pytest.CaptureFixture[str]) -> None:
    content = {BASE.chain: sizes.SizeReport((), ())}
    sizes_view.print_text(sizes_view.as_data({"base": ("", "base")}, [{}, {"base": BASE}], content, ("", "size")))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["image", "size"]
    assert lines[1].split() == ["base", "110B", "110B", "2"]
    assert lines[2].split() == ["on", "one", "disk", "110B"]


@pytest.fixture(params=["the engine's store", "containerd's"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine that is asked; once one whose store calls an image by its manifest."""
    if request.param == "the engine's store":
        yield
        return
    with temporary_engine("tst-sizes-", containerd_store=True, in_memory=True) as one:
        for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
            monkeypatch.setenv(name, one.environ[name])
        yield


@pytest.mark.engine
@pytest.mark.usefixtures("either")
def test_a_real_image_layer_by_layer(tmp_path: Path) -> None:
    ref = f"bm-test-sizes-{os.getpid()}"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY one /\nENV A=1\nCOPY two /\nCOPY changed /one\n")
    for name, size in (("one", 3000), ("two", 200), ("changed", 10)):
        (tmp_path / name).write_bytes(os.urandom(size))
    subprocess.run(["docker", "buildx", "build", "--quiet", "--tag", ref, str(tmp_path)], check=True)
    try:
        measured = sizes.measure_image(Engine(), ref)
        assert measured is not None
        made = [layer.size for layer in measured.layers]
        if Engine().uses_containerd_store():  # counts folders, and whole blocks of the disk
            assert made[0] > made[1] >= made[2] > 0
        else:
            assert made == [3000, 200, 10]
        kept = tmp_path / "sizes.json"
        content = sizes.contents_of([measured], kept, os.environ, print)[measured.chain]
        assert [(file.path, file.size, file.layer) for file in content.largest] == [("two", 200, 1), ("one", 10, 2)]
        assert [(one.what, one.size) for one in content.could_go] == [("replaced or deleted by a later layer", 3000)]
        # a chain never changes what it means: the second look reads nothing from the engine
        assert sizes.contents_of([measured], kept, {"PATH": "/nowhere"}, print)[measured.chain] == content
    finally:
        subprocess.run(["docker", "image", "rm", ref], check=True, capture_output=True)
    assert sizes.measure_image(Engine(), ref) is None


def test_a_base_that_tells_no_size_of_its_layer_counts_all_the_same() -> None:
    class Listed:
        by = Measured

        def snapshot(self) -> Listed:
            return self

        def get(self, ref: str) -> Listed:
            return self

        id, size = "sha256:1", 120

        def layers(self, image_id: str) -> tuple[tuple[str, int], ...]:
            return (("d1", 0), ("d2", 20))

    measured = sizes.measure_image(Listed(), "imported")
    assert measured is not None
    assert [layer.size for layer in measured.layers] == [100, 20]
    assert isinstance(measured.layers[0], Layer)
