"""Whole runs beside damaged, full, unwritable and foreign folders of ours: what is remembered decides nothing."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Lab
from tests.core.building.test_whole_runs import Shop, opened

WITHOUT_OVERRIDE = ["setpriv", *(f"--{which}=-dac_override,-dac_read_search" for which in ("bounding-set", "inh-caps"))]
FRESH = dict.fromkeys(("base", "web", "worker"), "fresh")
LOOKING = ("plan", "history", "build_report", "cache_prune --dry-run", "list", "info build_optimized:web")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A project that was built."""
    with built(tmp_path) as one:
        yield one


@contextlib.contextmanager
def built(folder: Path) -> Iterator[Shop]:
    with opened(folder) as (lab, engine):
        lab.build()
        lab.plan()  # which remembers what it learnt of the images
        yield lab, engine


def state(lab: Lab) -> list[Path]:
    """All that runs remember, but for the file by which git ignores it and empty ones."""
    found = sorted(path for path in (lab.folder / ".doit-images").rglob("*") if path.is_file() and path.stat().st_size)
    return [path for path in found if path.name != ".gitignore" and not path.is_symlink()]


def is_sane(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "Exception" not in done.stderr, done.stderr


def all_is_fresh(lab: Lab, **environ: str) -> str:
    """Nothing is planned, nothing is built, nothing fails; what was said."""
    planned = lab.doit("plan", "--json", **environ)
    is_sane(planned)
    assert planned.returncode == 0, planned.stderr
    assert {one["name"]: one["action"] for one in json.loads(planned.stdout)["images"]} == FRESH
    built = lab.doit("build_optimized", **environ)
    is_sane(built)
    assert built.returncode == 0, built.stderr
    assert "3 images fresh" in built.stderr, built.stderr
    return planned.stderr + built.stderr


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _noise(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _one_bit(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 4
    path.write_bytes(whole)


def _other_shape(path: Path) -> None:
    path.write_text('{"checksum": "", "images": 5}')


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


MORE = (pytest.param(one, marks=pytest.mark.all) for one in (_truncated, _one_bit, _other_shape, _circle))
DAMAGES = [_noise, _folder, _pipe, *MORE]


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_that_is_remembered_is_damaged_at_once(shop: Shop, damage: Callable[[Path], None]) -> None:
    lab, _ = shop
    files = state(lab)
    kinds = {
        "facts.json",
        "contexts.sqlite3",
        "doit.sqlite3",
        "history.sqlite3",
        "project.json",
        "reads.json",
        "web.json",
    }
    assert kinds <= {path.name for path in files}
    for path in files:
        damage(path)
    said = all_is_fresh(lab)
    assert "unknown" in said or "damaged" in said or "written" in said
    is_sane(lab.doit("history"))
    lab.write({"worker/f": f"{damage}\n"})
    done = lab.doit("build_optimized")
    is_sane(done)
    assert "built worker" in done.stderr
    assert done.returncode == 0, done.stderr
    if damage not in (_folder, _pipe, _circle):  # these nobody takes away but who made them
        assert "damaged" not in all_is_fresh(lab), "it is begun anew"


def test_each_that_is_remembered_is_damaged_alone(shop: Shop) -> None:
    lab, _ = shop
    for path in state(lab):
        kept = path.read_bytes()
        _one_bit(path)
        all_is_fresh(lab)
        path.write_bytes(kept)


def test_what_an_older_version_left_is_no_trouble(shop: Shop) -> None:
    lab, _ = shop
    for path in state(lab):
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            del content["checksum"]
            path.write_text(json.dumps(content))
    assert "unknown" not in all_is_fresh(lab)


def works_without_remembering(lab: Lab, said: str, **environ: str) -> None:
    """Every task that looks works, and a run with nothing to do."""
    told = all_is_fresh(lab, **environ)
    assert said in told
    assert len([line for line in told.splitlines() if said in line]) <= 2 * 2, "once in a run, for each kind of trouble"
    for command in ("doctor", *LOOKING):
        done = lab.doit(*command.split(), **environ)
        is_sane(done)
        assert done.returncode == 0 or command in ("doctor", "build_report"), (command, done.stderr)


def fill(folder: Path) -> None:
    with (folder / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0


@pytest.fixture
def small_disk(shop: Shop) -> Iterator[Lab]:
    """A project whose ``.doit-images`` is a disk of its own, without a byte left."""
    lab, _ = shop
    folder, aside = lab.folder / ".doit-images", lab.folder / "aside"
    folder.rename(aside)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True, symlinks=True)
        fill(folder)
        yield lab
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_nobody_from_looking(small_disk: Lab) -> None:
    for name in ("facts.json", "compose.yml/reads.json", "compose.yml/project.json", "compose.yml/images/web.json"):
        os.truncate(small_disk.folder / ".doit-images" / name, 10)
    fill(small_disk.folder / ".doit-images")
    works_without_remembering(small_disk, "No space left on device (`cache_prune` makes room)")


def test_cache_prune_works_on_a_full_disk(small_disk: Lab) -> None:
    (small_disk.folder / "worker/f").write_text("2\n")
    os.truncate(small_disk.folder / ".doit-images/facts.json", 10)
    pruned = small_disk.doit("cache_prune", "--all", "--yes")
    is_sane(pruned)
    assert pruned.returncode == 0, pruned.stderr
    assert "removed" in pruned.stderr


def test_a_build_on_a_full_disk_is_built_or_says_why(small_disk: Lab) -> None:
    (small_disk.folder / "worker/f").write_text("2\n")
    done = small_disk.doit("build_optimized")
    is_sane(done)
    assert done.returncode == 0 or "No space left on device" in done.stderr, done.stderr
    (small_disk.folder / ".doit-images/filler").unlink()
    assert small_disk.doit("build_optimized").returncode == 0
    all_is_fresh(small_disk)


def test_no_file_can_grow(shop: Shop) -> None:
    """As with a quota: whoever may not mount has this."""
    lab, _ = shop
    for path in state(lab):
        if path.suffix == ".json":
            os.truncate(path, 10)
    argv = [sys.executable, "-m", "doit", "build_optimized"]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=lab.env(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    is_sane(done)
    assert done.returncode == 0, done.stderr
    assert "what runs remember cannot be written: File too large" in done.stderr
    all_is_fresh(lab)


@pytest.fixture
def usual(shop: Shop) -> Lab:
    """A project that was built, for whom modes of files count: root may do everything, but not without these."""
    lab, _ = shop
    if os.getuid() == 0:
        argv = lab.argv
        lab.argv = lambda *args: [*WITHOUT_OVERRIDE, *argv(*args)]  # type: ignore[method-assign]
        if shutil.which("setpriv") is None or subprocess.run([*WITHOUT_OVERRIDE, "true"]).returncode:
            pytest.skip("root cannot give up that it may write everywhere")
    return lab


@pytest.fixture
def unwritable(usual: Lab) -> Iterator[Lab]:
    """A project in whose ``.doit-images`` doit may only read, as after ``sudo ./doitw``."""
    lab = usual
    kept = [
        path
        for path in [lab.folder / ".doit-images", *(lab.folder / ".doit-images").rglob("*")]
        if not path.is_symlink()
    ]
    for path in kept:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield lab
    for path in kept:
        path.chmod(0o755)


def test_a_build_folder_of_root_stops_nobody_from_looking(unwritable: Lab) -> None:
    works_without_remembering(unwritable, "Permission denied (give it back to yourself: sudo chown -R $USER ")
    found = {one["subject"]: one for one in json.loads(unwritable.doit("doctor", "--json").stdout)}
    assert "may not be written, it belongs to" in found[".doit-images"]["detail"]
    assert (
        found[".doit-images"]["remedy"]
        == f"give it back to yourself: sudo chown -R $USER {unwritable.folder}/.doit-images"
    )


def test_a_build_in_a_folder_of_root_says_whose_it_is(unwritable: Lab) -> None:
    (unwritable.folder / "worker/f").write_text("2\n")
    done = unwritable.doit("build_optimized")
    is_sane(done)
    assert done.returncode == 0 or "Permission denied" in done.stderr, done.stderr
    assert "remove it" not in done.stderr
    assert f"sudo chown -R $USER {unwritable.folder}/.doit-images)" in done.stderr


@pytest.mark.parametrize("closed", [".", "compose.yml", "compose.yml/history"])
def test_a_folder_that_only_root_may_enter_is_one_sentence(usual: Lab, closed: str) -> None:
    """As after ``sudo ./doitw``: our own folders are for their owner alone."""
    folder = usual.folder / ".doit-images" / closed
    folder.chmod(0)
    remedy = f"(give it back to yourself: sudo chown -R $USER {usual.folder}/.doit-images)"
    try:
        for command in ("plan", "history", "build_optimized"):
            done = usual.doit(command)
            is_sane(done)
            if closed == "compose.yml/history":
                assert done.returncode == 0, "what was built before decides nothing"
            else:
                said = f"ERROR: {folder}: this folder is closed to you, as after a run with sudo {remedy}"
                assert (done.returncode, done.stderr.splitlines()) == (3, [said])
    finally:
        folder.chmod(0o755)


def test_a_checkout_that_can_only_be_read_is_said_once(shop: Shop) -> None:
    lab, _ = shop
    shutil.rmtree(lab.folder / ".doit-images")
    (lab.folder / "worker/f").write_text("2\n")
    bound = ["mount --bind {0} {0}", "mount -o remount,ro,bind {0}"]
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root can mount a folder once more")
    argv = lab.argv

    def mounted(*args: str) -> list[str]:
        script = " && ".join([*bound, 'exec "$@"']).format(lab.folder)
        return ["unshare", "--mount", "sh", "-c", script, "sh", *argv(*args)]

    lab.argv = mounted  # type: ignore[method-assign]
    remedy = "Read-only file system (work in a copy of the checkout that can be written)"
    for command, status in {"plan": 0, "build_optimized": 1}.items():
        done = lab.doit(command)
        is_sane(done)
        assert done.returncode == status, done.stderr
        assert (
            done.stderr.splitlines()[0] == f"{lab.folder}/.doit-images: what runs remember cannot be written: {remedy}"
        )
        assert done.stderr.count("what runs remember") == 1
    assert f"this file cannot be locked: {remedy}" in done.stderr
    (finding,) = [one for one in json.loads(lab.doit("doctor", "--json").stdout) if one["subject"] == ".doit-images"]
    assert (finding["verdict"], finding["detail"]) == ("warn", f"{lab.folder}/.doit-images cannot be made")
    assert finding["remedy"] in remedy


def test_without_a_folder_to_remember_in(shop: Shop) -> None:
    lab, _ = shop
    shutil.rmtree(lab.folder / ".doit-images")
    (lab.folder / ".doit-images").write_text("a file in its place\n")
    assert "what runs remember cannot be written" in all_is_fresh(lab)
