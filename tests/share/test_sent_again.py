"""What BuildKit's client overlooks reaches an image all the same: it sends again only files whose size or time moved,
and knows a context by the last part of its path alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Lab, docker

pytestmark = pytest.mark.engine

_COMPOSE = "name: PREFIX\nservices: {app: {image: PREFIX/app, build: ctx}}\n"
_OLD = 1_000_000_000  # as archives, package managers and reproducible builds set it


def old(path: Path, text: str) -> None:
    """A file as an archive with fixed times leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (_OLD, _OLD))


def contents(lab: Lab, image: str) -> dict[str, tuple[int, str]]:
    """Mode and content of every path of an image."""
    container = docker("create", lab.ref(image), "none").stdout.strip()
    archive = lab.folder / f"{image}.tar"
    docker("export", "--output", str(archive), container)
    docker("rm", "--volumes", container)
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name] = (member.mode, file.read().decode(errors="replace") if file else "")
    return found


@pytest.fixture
def app(lab: Lab) -> Lab:
    lab.write({"compose.yml": _COMPOSE, "ctx/Dockerfile": "FROM scratch\nCOPY d /d\n", "ctx/d/g": "g"})
    old(lab.folder / "ctx/d/f", f"one {lab.prefix}")
    lab.build()
    assert contents(lab, "app")["d/f"][1] == f"one {lab.prefix}"
    return lab


def test_contexts_of_one_name_are_not_taken_for_each_other(lab: Lab) -> None:
    names = ("one", "two")
    services = "".join(f"  {name}: {{image: PREFIX/{name}, build: {name}/src}}\n" for name in names)
    lab.write({"compose.yml": f"name: PREFIX\nservices:\n{services}"})
    for name in names:
        lab.write({f"{name}/src/Dockerfile": "FROM scratch\nCOPY f /\n"})
        old(lab.folder / name / "src/f", f"{name} {lab.prefix}")
    assert lab.doit("-n", "1", "build_optimized").returncode == 0  # what is in use, a second build starts anew
    assert {name: contents(lab, name)["f"][1] for name in names} == {name: f"{name} {lab.prefix}" for name in names}


def test_named_contexts_of_one_name_are_not_taken_for_each_other(lab: Lab) -> None:
    names = ("one", "two")
    services = "".join(
        f"  {name}: {{image: PREFIX/{name}, build: {{context: all, additional_contexts: {{more: {name}/src}}}}}}\n"
        for name in names
    )
    lab.write({"compose.yml": f"name: PREFIX\nservices:\n{services}"})
    lab.write({"all/Dockerfile": "FROM scratch\nCOPY --from=more f /\n"})
    for name in names:
        old(lab.folder / name / "src/f", f"{name} {lab.prefix}")
    assert lab.doit("-n", "1", "build_optimized").returncode == 0  # what is in use, a second build starts anew
    assert {name: contents(lab, name)["f"][1] for name in names} == {name: f"{name} {lab.prefix}" for name in names}


def test_other_content_of_the_same_size_and_time(app: Lab) -> None:
    old(app.folder / "ctx/d/f", f"two {app.prefix}")
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"two {app.prefix}"
    # And back again, for the builder has seen both by now.
    docker("image", "rm", "--force", *app.images())
    old(app.folder / "ctx/d/f", f"one {app.prefix}")
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"one {app.prefix}"


def test_other_content_of_the_same_size_and_time_when_nothing_is_remembered(app: Lab) -> None:
    shutil.rmtree(app.folder / ".doit-images")
    old(app.folder / "ctx/d/f", f"two {app.prefix}")
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"two {app.prefix}"


def test_a_file_that_was_away_for_a_while(app: Lab) -> None:
    (app.folder / "ctx/d/f").unlink()
    assert app.actions() == {"app": "build"}
    old(app.folder / "ctx/d/f", f"two {app.prefix}")
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"two {app.prefix}"


def test_a_file_that_was_another_for_a_while(app: Lab) -> None:
    """Which only a plan saw, and remembered in place of what the builder has."""
    (app.folder / "ctx/d/f").write_text("longer, and of now")
    assert app.actions() == {"app": "build"}
    old(app.folder / "ctx/d/f", f"two {app.prefix}")
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"two {app.prefix}"


def test_the_mode_of_a_folder(app: Lab) -> None:
    app.write({"ctx/d/e/f": "f"})
    app.build()
    (app.folder / "ctx/d/e").chmod(0o711)
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/e"][0] == 0o711


def test_a_builder_that_has_seen_a_context_is_not_sent_it_again(app: Lab) -> None:
    """The way out costs nothing where nothing is overlooked."""
    (app.folder / "ctx/d/large").write_bytes(os.urandom(3_000_000))
    (app.folder / "ctx/d/f").write_text("a")
    app.build()
    (app.folder / "ctx/d/f").write_text("another")
    assert app.build() == {"app": "built"}
    [log] = (app.folder / ".doit-images").rglob("logs/app.log")
    assert "transferring context: 3." not in log.read_text(), log.read_text()


def test_a_context_that_is_a_link_and_leads_elsewhere(app: Lab) -> None:
    app.write({"compose.yml": _COMPOSE.replace("ctx", "current")})
    (app.folder / "current").symlink_to("ctx")
    app.write({"ctx/d/g": "another"})
    assert app.build() == {"app": "built"}
    shutil.copytree(app.folder / "ctx", app.folder / "next")
    old(app.folder / "next/d/f", f"two {app.prefix}")
    (app.folder / "current").unlink()
    (app.folder / "current").symlink_to("next")
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"two {app.prefix}"


def test_what_is_overlooked_in_one_context_sends_no_other_one_again(app: Lab) -> None:
    app.write({"compose.yml": _COMPOSE.replace("}}", "}, other: {image: PREFIX/other, build: more}}")})
    app.write({"more/Dockerfile": "FROM scratch\nCOPY large f /\n", "more/f": "a", "more/large": ""})
    (app.folder / "more/large").write_bytes(os.urandom(3_000_000))
    assert app.build() == {"other": "built"}
    said = ""
    for text in ("another", "a third"):  # what is still in use for the build before, BuildKit takes anew
        (app.folder / "ctx/d/f").unlink()
        app.write({"ctx/d/g": text, "more/f": text})
        assert app.build() == {"app": "built", "other": "built"}
        [log] = (app.folder / ".doit-images").rglob("logs/other.log")
        said = log.read_text()
        if "transferring context: 3." not in said:
            return
        old(app.folder / "ctx/d/f", f"one {app.prefix}")
        app.build()
    pytest.fail(said)


def test_a_file_that_another_project_of_the_folder_does_not_copy(app: Lab) -> None:
    app.write({"g.yml": _COMPOSE.replace("build: ctx", "build: {context: ctx, dockerfile: ../g.Dockerfile}")})
    app.write({"g.Dockerfile": "FROM scratch\nCOPY d/g /\n"})
    old(app.folder / "ctx/d/f", f"two {app.prefix}")
    assert app.doit("plan", COMPOSE_FILE=str(app.folder / "g.yml")).returncode == 0
    assert app.build() == {"app": "built"}
    assert contents(app, "app")["d/f"][1] == f"two {app.prefix}"


def test_an_attribute_of_a_folder(app: Lab) -> None:
    """BuildKit counts it when it gets it; layers of the classic store do not hold it, so its steps tell."""
    app.write({"ctx/d/e/f": "f"})
    app.build()
    try:
        os.setxattr(app.folder / "ctx/d/e", "user.test", b"1")
    except OSError as error:
        pytest.skip(f"this file system keeps no attributes: {error.strerror}")
    assert app.build() == {"app": "built"}
    [log] = (app.folder / ".doit-images").rglob("logs/app.log")
    assert "COPY d /d" in log.read_text()
    assert "CACHED" not in log.read_text()


def _image_of_a_disk(path: Path, content: str, folder: Path) -> None:
    """A file system of whole seconds (as squashfs and ISO 9660 have them) in which only this file differs."""
    old(folder / "f", content)
    path.write_bytes(bytes(2**21))
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", "-d", str(folder), str(path)], check=True, capture_output=True)
    for field in ("ctime", "mtime"):
        change = f"set_inode_field /f {field} @{_OLD}"
        subprocess.run(["debugfs", "-w", "-R", change, str(path)], check=True, capture_output=True)


def test_another_disk_of_the_same_stamps(lab: Lab) -> None:
    """Mounted at the same place: names, inodes, sizes and all times are those that were there before."""
    lab.write({"compose.yml": _COMPOSE.replace("ctx", "{context: ctx, dockerfile: ../Dockerfile}")})
    lab.write({"Dockerfile": "FROM scratch\nCOPY f /\n"})
    context = lab.folder / "ctx"
    context.mkdir()
    stamps = []
    for number in ("1", "2"):
        disk = lab.folder / f"disk{number}"
        _image_of_a_disk(disk, f"{number} {lab.prefix}", lab.folder / "content")
        if subprocess.run(["mount", "-o", "loop,ro", disk, context], capture_output=True).returncode:
            pytest.skip("a disk of its own needs the right to mount one")
        try:
            found = (context / "f").stat()
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            assert lab.build() == {"app": "built"}
        finally:
            subprocess.run(["umount", "--lazy", context], check=True)
        assert contents(lab, "app")["f"][1] == f"{number} {lab.prefix}"
    assert stamps[0] == stamps[1], "or this test shows nothing"
