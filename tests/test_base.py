"""The base image: where it comes from, when it may be made here, and that making it twice gives the same image."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engine import Engine, Held, Snapshot, host_platform
from tasks.errors import Trouble
from tasks.images import base
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.conftest import ROOT, docker

OURS = Held("sha256:1", labels={base.SOURCE_LABEL: "debian"})
THEIRS = Held("sha256:2")
OFFLINE = "no registry can be reached (no such host)"


@pytest.mark.parametrize(
    ("source", "held", "enough"),
    [
        ("auto", None, False),
        ("auto", OURS, True),
        ("auto", THEIRS, True),
        ("debian", OURS, True),
        ("debian", THEIRS, False),
        ("registry", OURS, False),
        ("registry", THEIRS, True),
    ],
)
def test_what_the_engine_holds_counts_if_it_comes_from_where_it_should(
    source: str, held: Held | None, enough: bool
) -> None:
    assert base.wanted(held, Settings(base_source=source)) is enough


@pytest.mark.parametrize("ref", ["python:3.13-slim-trixie", "python:3.13-slim", "registry.example/team/base:1", "base"])
def test_a_base_made_here_may_stand_in(ref: str) -> None:
    base.refuse_to_stand_in(ref, "auto", OFFLINE)


@pytest.mark.parametrize(
    ("ref", "source", "sentence"),
    [
        ("python:3.13", "registry", "BASE_SOURCE=registry"),
        ("python@sha256:" + "0" * 64, "auto", "cannot have the digest of python@sha256:000"),
        ("python:3.13@sha256:" + "0" * 64, "debian", "cannot have the digest of python:3.13@sha256:000"),
        ("python:3.12-slim", "auto", "is no Python 3.12"),
        ("mirror.example:5000/library/python:3.9", "auto", "is no Python 3.9"),
        ("python:3.13-alpine", "auto", "is no alpine"),
        ("debian:bookworm-slim", "auto", "is no bookworm"),
    ],
)
def test_where_it_may_not_stand_in_the_reason_is_a_sentence(ref: str, source: str, sentence: str) -> None:
    with pytest.raises(Trouble) as caught:
        base.refuse_to_stand_in(ref, source, OFFLINE)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_package_list_is_one_name_a_line_with_comments() -> None:
    assert base.packages("# why\npython3\n\n  tzdata  # times\n") == ["python3", "tzdata"]
    listed = base.packages((ROOT / "docker/base/packages.txt").read_text())
    assert {"python3", "python3-venv", "ca-certificates"} <= set(listed)
    assert listed == sorted(listed)


def test_the_mirrors_of_the_machine_are_used_for_the_suite_alone() -> None:
    lines = [
        "http://mirror.example/debian/ trixie Debian",
        "http://mirror.example/debian/ trixie-updates Debian",
        "https://mirror.example/security/ trixie-security Debian",
        "http://mirror.example/debian/ sid Debian",
        "http://mirror.example/other/ trixie Somebody",
        "file:/srv/debian/ trixie Debian",
    ]
    assert base.mirrors(lines) == [
        "deb http://mirror.example/debian/ trixie main",
        "deb http://mirror.example/debian/ trixie-updates main",
        "deb https://mirror.example/security/ trixie-security main",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "http://archive.ubuntu.example/ubuntu/ noble Ubuntu",
        "http://mirror.example/debian/ trixie-updates Debian",
        "http://mirror.example/debian/ bookworm Debian",
        # It would end in a layer, and a password has no place there.
        "https://user:secret@mirror.example/debian/ trixie Debian",
        "",
    ],
)
def test_other_machines_leave_it_to_debians_own_mirrors(line: str) -> None:
    assert base.mirrors([line]) == []


def test_the_command_line_of_mmdebstrap() -> None:
    argv = base.mmdebstrap_argv(["python3", "tzdata"], Path("/b/r.tar"), "arm64", ["deb u trixie main"], Path("/a b/c"))
    assert argv == [
        "mmdebstrap",
        "--variant=minbase",
        "--architectures=arm64",
        "--include=python3,tzdata",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/info/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-include=/usr/share/locale/locale.alias",
        '--customize-hook=install -m 0644 "/a b/c" "$1/etc/apt/apt.conf.d/docker-clean"',
        '--customize-hook=rm -f "$1/var/cache/apt/pkgcache.bin" "$1/var/cache/apt/srcpkgcache.bin"',
        "--format=tar",
        "trixie",
        "/b/r.tar",
        "deb u trixie main",
    ]


@given(st.binary(max_size=2000), st.sampled_from(["linux/amd64", "linux/arm64/v8"]))
def test_the_image_is_a_pure_function_of_the_filesystem_and_the_platform(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, platform: str
) -> None:
    tar = tmp_path_factory.mktemp("layer") / "rootfs.tar"
    tar.write_bytes(content)
    first, second = io.BytesIO(), io.BytesIO()
    image = base.write_archive("docker.io/library/python:1", tar, platform, first)
    assert base.write_archive("docker.io/library/python:1", tar, platform, second) == image
    assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as archive:
        files: dict[str, bytes] = {
            entry.name: opened.read() for entry in archive if (opened := archive.extractfile(entry)) is not None
        }
    (manifest,) = json.loads(files["manifest.json"])
    config = files[manifest["Config"]]
    assert manifest["RepoTags"] == ["python:1"]
    assert image == "sha256:" + hashlib.sha256(config).hexdigest()
    assert files[manifest["Layers"][0]] == content
    said: dict[str, Any] = json.loads(config)
    assert said["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(content).hexdigest()]
    assert "/".join(filter(None, (said["os"], said["architecture"], said.get("variant")))) == platform


def test_without_mmdebstrap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Trouble, match="apt-get install mmdebstrap debian-archive-keyring"):
        base.make_rootfs(ROOT, tmp_path / "rootfs.tar", "linux/amd64")


def test_what_mmdebstrap_says_last_is_passed_on_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not any(path.exists() for path in base._KEYRINGS):
        pytest.skip("debian-archive-keyring is not installed")
    fake = tmp_path / "bin/mmdebstrap"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor last; do case $last in *.tar) echo half >"$last" ;; esac; done\n'
                    'echo "I: hello" >&2; echo "E: no space" >&2; exit 25\n')  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    tar = tmp_path / "out/rootfs.tar"
    with pytest.raises(Trouble, match=r"mmdebstrap: no space \(its log is .*/out/mmdebstrap.log\)"):
        base.make_rootfs(ROOT, tar, "linux/amd64")
    assert [path.name for path in tar.parent.iterdir()] == ["mmdebstrap.log"]


def test_the_task_asks_the_engine_only_when_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_call", lambda *_: pytest.fail("the engine was asked"))
    task = base.task_base_image()
    assert str(task["uptodate"][0]) == "BASE_IMAGE is in the engine"


def test_a_silent_engine_makes_the_task_stale_instead_of_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> Snapshot:
        raise Trouble("no Docker engine answers")

    monkeypatch.setattr(Engine, "snapshot", silent)
    monkeypatch.setattr("tasks.workspace.current", Workspace)
    assert base.Present()(None, None) is False


@pytest.fixture
def name(engine: None) -> Iterator[str]:
    ref = f"tst-base-{uuid.uuid4().hex[:10]}:1"
    yield ref
    docker("image", "rm", "--force", ref)


@pytest.mark.engine
def test_a_base_that_is_there_costs_nothing(name: str, tmp_path: Path) -> None:
    tar = tmp_path / "rootfs.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(ROOT / "LICENSE", "LICENSE")
    image = base.load(name, tar, host_platform())
    assert docker("image", "inspect", "--format", "{{.Id}}", name).stdout.strip() == image
    assert base.ensure(Settings(base_image=name), tmp_path) == ""
    assert base.ensure(Settings(base_image=name, base_source="debian"), tmp_path) == ""


@pytest.mark.engine
def test_the_engines_refusal_is_passed_on(name: str, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(Trouble, match="docker load refuses"):
        base.load(name, tmp_path / "rootfs.tar", host_platform())


@pytest.mark.engine
def test_made_twice_from_the_same_packages_it_is_the_same_image(name: str, tmp_path: Path) -> None:
    """The real thing: Debian's packages, twice, into the engine; and Python runs in it."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("there is no mmdebstrap: apt-get install mmdebstrap")
    shutil.copytree(ROOT / "docker/base", tmp_path / "docker/base")
    settings = Settings(base_image=name, base_source="debian")
    assert base.ensure(settings, tmp_path) == f"made {name} from Debian's packages (trixie, Python 3.13)"
    first = docker("image", "inspect", "--format", "{{.Id}}", name).stdout
    docker("image", "rm", "--force", name)
    (tmp_path / base.TAR).unlink()
    base.ensure(settings, tmp_path)
    assert docker("image", "inspect", "--format", "{{.Id}}", name).stdout == first
    done = docker(
        "run", "--rm", "--network", "none", name, "python3", "-c", "import sys, ssl; print(sys.version_info[:2])"
    )
    assert done.stdout.strip() == "(3, 13)"
