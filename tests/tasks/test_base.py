"""The base image: where it comes from, when it may be made here, and that making it twice gives the same image."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import stand_in
from doit_images.core.base.settings import BaseSource, Settings
from doit_images.core.engine.api import Api
from doit_images.core.engine.client import Engine, LocalImage, Snapshot, host_platform, image_config, normalise
from doit_images.core.run import Parts, Run
from doit_images.share import connection
from doit_images.ui import doctor
from tasks import base_image as bases
from tasks.bases import base, debian, declared
from tests.conftest import ROOT, docker
from tests.owners import own
from tests.waiting import patience

NUMBER = "ab" * 32
LABELS = {debian.SOURCE_LABEL: "debian", debian.IDENTITY_LABEL: NUMBER}
OURS = LocalImage("sha256:1", labels=LABELS, created=debian.EPOCH)
THEIRS = LocalImage("sha256:2")
OFFLINE = "no registry can be reached (no such host)"


@pytest.mark.parametrize(
    ("source", "local_image", "enough"),
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
    source: str, local_image: LocalImage | None, enough: bool
) -> None:
    assert base.wanted(local_image, Settings(base_source=source), NUMBER) is enough


@pytest.mark.parametrize("source", ["auto", "debian"])
def test_a_base_made_here_that_is_not_the_declared_one_is_made_anew(source: str) -> None:
    settings = Settings(base_source=source)
    assert not base.wanted(OURS, settings, "cd" * 32)
    assert base.wanted(OURS, settings, ""), "a project that declares none"
    # By an older version of these tasks, which did not say what it is.
    older = LocalImage("sha256:3", labels={debian.SOURCE_LABEL: "debian"}, created=debian.EPOCH)
    assert not base.wanted(older, settings, NUMBER)
    # What people built on one of ours inherits its labels, and is theirs.
    theirs = LocalImage("sha256:4", labels=LABELS, created=debian.EPOCH + 5)
    assert base.wanted(theirs, settings, "cd" * 32)


def test_of_many_runs_at_once_one_makes_the_base_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held: dict[str, LocalImage] = {}
    everybody_asked, inside = threading.Barrier(4), list[int]()

    class Held:
        address = f"unix://{tmp_path}/engine.sock"
        asked = threading.local()

        def snapshot(self) -> Snapshot:
            seen = Snapshot(dict(held), "linux/amd64", {})
            self.asked.times = getattr(self.asked, "times", 0) + 1
            if self.asked.times == 2:  # the first question is of which platform the engine is
                everybody_asked.wait(patience())  # each has seen that there is none
            return seen

    def bring(*_: object) -> str:
        inside.append(1)
        time.sleep(0.2)
        held[normalise("base:1")] = THEIRS
        return "made base:1"

    monkeypatch.setattr(base, "Engine", Held)
    monkeypatch.setattr(base._Base, "_bring", bring)
    settings = Settings(base_source=BaseSource.REGISTRY, base_image="base:1")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: base.ensure(settings, tmp_path), range(4)))
    assert sorted(done) == ["", "", "", "made base:1"]
    assert inside == [1]
    assert capsys.readouterr().err.splitlines() == ["base_image: waiting for another run that makes it"] * 3


def declaring(root: Path, **files: str) -> Path:
    for name, text in {"packages.txt": "python3\n", "docker-clean": "x", "date.txt": "2026-11-25\n", **files}.items():
        path = root / "docker/base" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_identity_is_all_that_decides_what_the_base_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = debian.identity(declaring(tmp_path), "linux/amd64")
    assert number == debian.identity(declaring(tmp_path / "elsewhere"), "linux/amd64")
    same: list[dict[str, str]] = [{"packages.txt": "# why\npython3 # this\n"}, {"date.txt": "# when\n\n2026-11-25"}]
    other = [{"packages.txt": "python3\ntzdata\n"}, {"date.txt": "2026-11-26\n"}, {"docker-clean": "y"}]
    for files in same:
        assert debian.identity(declaring(tmp_path, **files), "linux/amd64") == number
    for files in other:
        assert debian.identity(declaring(tmp_path, **files), "linux/amd64") != number
    declaring(tmp_path)
    assert debian.identity(tmp_path, "linux/arm64") != number
    for name, value in {"SUITE": "forky", "PYTHON": "3.14", "EPOCH": 1, "_EXCLUDED": (), "_KEPT": ()}.items():
        with monkeypatch.context() as patch:
            patch.setattr(debian, name, value)
            assert debian.identity(tmp_path, "linux/amd64") != number, name
    assert debian.identity(tmp_path / "nowhere", "linux/amd64") == ""


def test_the_identity_is_no_content() -> None:
    def content(number: str) -> str:
        config = json.loads(debian.image_config("sha256:1", "linux/amd64", number))
        inspected = {"RootFS": {"Layers": ["sha256:1"]}, "Config": config["config"], "Os": "linux"}
        return image_config(inspected).content

    assert content("1") == content("2") == content("")


@pytest.mark.parametrize(
    ("source", "ref", "may"),
    [
        ("auto", "python:3.13-slim-trixie", True),
        ("auto", "python:3.12", False),
        ("debian", "python:3.12", True),
        ("debian", "python@sha256:" + "0" * 64, False),
        ("registry", "python:3.13-slim-trixie", False),
    ],
)
def test_where_a_shared_base_may_have_the_name(source: str, ref: str, may: bool) -> None:
    assert base.declared(Settings(base_source=source, base_image=ref)) is may


def rebuild(local_image: LocalImage | None, root: Path, **settings: str) -> str:
    """With an engine that holds this under the base's name."""
    run = Run(environ=settings, parts=Parts(peers=connection.Machines))
    return base.rebuild(run.settings, local_image, connection.of(run).share, root)


@pytest.mark.parametrize(
    ("local_image", "settings", "sentence"),
    [
        (None, {"BASE_SOURCE": "registry"}, "BASE_SOURCE=registry"),
        (None, {"BASE_IMAGE": "python@sha256:" + "0" * 64}, "cannot have the digest"),
        (None, {"BASE_IMAGE": "python:3.12"}, "is no Python 3.12"),
        (THEIRS, {}, "was not made here from Debian's packages"),
    ],
)
def test_rebuild_base_leaves_a_base_from_elsewhere_alone(
    local_image: LocalImage | None, settings: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        rebuild(local_image, declaring(tmp_path), **settings)
    assert debian.date_of(tmp_path) == "2026-11-25"


def test_a_day_on_which_no_base_could_be_made_is_taken_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    days = []

    def fails(*_: object, **__: object) -> str:
        days.append(debian.date_of(tmp_path))
        raise UserError("mmdebstrap: no mirror")

    monkeypatch.setattr(base, "ensure", fails)
    text = "# when\n2026-01-01\n"
    declaring(tmp_path, **{"date.txt": text})
    with pytest.raises(UserError, match="no mirror"):
        rebuild(OURS, tmp_path)
    assert days == [time.strftime("%Y-%m-%d", time.gmtime())]
    assert (tmp_path / debian.DATE).read_text() == text


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
    with pytest.raises(UserError) as caught:
        base.refuse_to_stand_in(ref, source, OFFLINE)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_package_list_is_one_name_a_line_with_comments() -> None:
    assert debian.packages("# why\npython3\n\n  tzdata  # times\n") == ["python3", "tzdata"]
    listed = debian.packages((ROOT / "docker/base/packages.txt").read_text())
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
    assert debian.mirrors(lines) == [
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
    assert debian.mirrors([line]) == []


def test_the_command_line_of_mmdebstrap() -> None:
    argv = debian.mmdebstrap_argv(
        ["python3", "tzdata"], Path("/b/r.tar"), "arm64", ["deb u trixie main"], Path("/a b/c")
    )
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
    assert base.write_archive("python:1", tar, platform, io.BytesIO(), "another identity") != image
    said: dict[str, Any] = json.loads(config)
    assert said["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(content).hexdigest()]
    assert "/".join(filter(None, (said["os"], said["architecture"], said.get("variant")))) == platform


def test_without_mmdebstrap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install mmdebstrap debian-archive-keyring"):
        debian.make_rootfs(ROOT, tmp_path / "rootfs.tar", "linux/amd64")


def test_what_mmdebstrap_says_last_is_passed_on_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not any(path.exists() for path in debian._KEYRINGS):
        pytest.skip("debian-archive-keyring is not installed")
    fake = tmp_path / "bin/mmdebstrap"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor last; do case $last in *.tar) echo half >"$last" ;; esac; done\n'
                    'echo "I: hello" >&2; echo "E: no space" >&2; exit 25\n')  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    tar = tmp_path / "out/rootfs.tar"
    with pytest.raises(UserError, match=r"mmdebstrap: no space \(its log is .*/out/mmdebstrap.log\)"):
        debian.make_rootfs(ROOT, tar, "linux/amd64")
    assert [path.name for path in tar.parent.iterdir()] == ["mmdebstrap.log"]


def test_the_task_asks_the_engine_only_when_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "call", lambda *_: pytest.fail("the engine was asked"))
    task = bases.task_base_image()
    assert task is not None
    assert str(task["uptodate"][0]) == "BASE_IMAGE is in the engine"


def test_a_project_that_the_tasks_were_copied_into_makes_no_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bases, "ROOT", tmp_path)
    assert bases.task_base_image() is None
    assert bases.task_rebuild_base() is None
    for make in (
        lambda: rebuild(OURS, tmp_path),
        lambda: debian.make_rootfs(tmp_path, tmp_path / "rootfs.tar", "linux/amd64"),
    ):
        with pytest.raises(UserError, match="copy docker/base as well"):
            make()
    assert not list(tmp_path.iterdir())


def test_a_silent_engine_makes_the_task_stale_instead_of_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> Snapshot:
        raise UserError("no Docker engine answers")

    monkeypatch.setattr(Engine, "snapshot", silent)
    monkeypatch.setattr("tasks.base_image.current", Run)
    assert bases.Present()(None, None) is False


@pytest.fixture
def name(engine: None) -> Iterator[str]:
    ref = f"{own('base-')}:1"
    yield ref
    docker("image", "rm", "--force", ref, stand_in(ref, host_platform()))


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
def test_what_has_the_name_that_it_stands_in_for_is_called_by_its_own(name: str, tmp_path: Path) -> None:
    """As older versions left it. It goes on to count, so that nothing is made or built for that."""
    tar = tmp_path / "rootfs.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(ROOT / "LICENSE", "LICENSE")
    image = base.load(name, tar, host_platform(), debian.identity(ROOT, host_platform()))
    run = Run((ROOT / "docker-compose.optimized.yml",), {**os.environ, "BASE_IMAGE": name})
    here = declared.DeclaredBase(run)
    assert here.is_here()
    finding = doctor._base(run.settings, run.engine, run.local_images, here)
    assert (
        finding.detail == f"{name} was made from Debian's packages, and all other projects on this engine build on it"
    )
    [repair] = finding.repairs
    repair.do()
    own = stand_in(name, host_platform())
    assert docker("image", "inspect", name).returncode
    assert docker("image", "inspect", "--format", "{{.Id}}", own).stdout.strip() == image
    run.local_images.changed()
    assert here.is_here()
    assert (
        doctor._base(run.settings, run.engine, run.local_images, here).detail
        == f"{own}, made from Debian's packages, stands in for {name}"
    )


@pytest.mark.engine
def test_the_engines_refusal_is_passed_on(name: str, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(UserError, match="docker load refuses"):
        base.load(name, tmp_path / "rootfs.tar", host_platform())


@pytest.mark.all
@pytest.mark.engine
def test_made_twice_from_the_same_packages_it_is_the_same_image(base_image: str, name: str, tmp_path: Path) -> None:
    """The real thing: Debian's packages, twice, into the engine; and Python runs in it. The project's own base is one
    of the two, unless there are newer packages by now, or it comes from elsewhere."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("there is no mmdebstrap: apt-get install mmdebstrap")
    shutil.copytree(ROOT / "docker/base", tmp_path / "docker/base")
    settings = Settings(base_image=name, base_source="debian")
    assert base.ensure(settings, tmp_path) == f"made {name} from Debian's packages (trixie, Python 3.13)"
    own = stand_in(name, host_platform())
    assert base.name_here(settings, tmp_path) == own

    def made(ref: str = own) -> str:
        return docker("image", "inspect", "--format", "{{.Id}}", ref).stdout

    first = made()
    assert docker("image", "inspect", name).returncode, "nobody who means the real one gets it"
    done = docker(
        "run", "--rm", "--network", "none", own, "python3", "-c", "import sys, ssl; print(sys.version_info[:2])"
    )
    assert done.stdout.strip() == "(3, 13)"
    if made(base_image) != first:
        docker("image", "rm", "--force", own)
        (tmp_path / base.TAR).unlink()
        base.ensure(settings, tmp_path)
        assert made() == first
