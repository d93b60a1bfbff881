"""Data saved and brought back, on a small project with the real engine; the real stores are tried in test_migrate."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose
from doit_images.stack import backup, stores
from tests.conftest import docker
from tests.stack.test_stack import Stack

PROJECT = {
    "compose.yml": """
        name: PREFIX
        x-small: &small {init: true, stop_grace_period: 1s, restart: unless-stopped, build: ., image: PREFIX/one}
        x-backup:
          db:
            script: db.sh
            accepts: {service: web, command: [sh, -c, 'test "$$0" -lt 3 || { echo it is of $$0; exit 1; }']}
          cache: {script: cache.sh, load: stopped}
        services:
          db: {<<: *small, volumes: ["db:/data"]}
          cache: {<<: *small, volumes: ["cache:/data"]}
          web: {<<: *small, depends_on: [db, cache]}
          door: {<<: *small, profiles: [door]}
        volumes: {db: {}, cache: {}}
        """,
    "Dockerfile": """
        FROM tst-busybox:1
        HEALTHCHECK --interval=10s --start-interval=200ms --start-period=10s --retries=2 CMD test -e /tmp/well
        CMD ["sh", "-c", "mkdir -p /tmp; touch /tmp/well; exec sleep 1000"]
        """,
    "db.sh": """
        case $1 in
            save) cat /data/file ;;
            load) cat >/data/new; grep -q . /data/new || { echo it is empty >&2; exit 1; }; mv /data/new /data/file ;;
            version) cat /data/version ;;
            data) echo file 1 $(sha256sum </data/file | cut -c 1-20) ;;
        esac
        """,
    "cache.sh": """
        case $1 in
            save) cat /data/file ;;
            load) test ! -e /tmp/well && cat >/data/file ;;
            data) ;;
        esac
        """,
}


@pytest.fixture(scope="module")
def built(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one = Stack(tmp_path_factory.mktemp("backup"))
    yield one
    one.close()


@pytest.fixture
def stack(built: Stack) -> Stack:
    shutil.rmtree(built.folder / ".doit-images/backups", ignore_errors=True)
    built.anew(PROJECT).up()
    one_set(built, "first", version=1)
    return built


def one_set(stack: Stack, text: str, version: int) -> None:
    for name, id in stack.ids().items():
        if name in ("db", "cache"):
            docker("exec", id, "sh", "-c", f"echo {text} of {name} >/data/file; echo {version} >/data/version")


def held(stack: Stack) -> list[str]:
    return [docker("exec", stack.ids()[name], "cat", "/data/file").stdout.strip() for name in ("db", "cache")]


@pytest.mark.engine
def test_what_was_saved_is_brought_back(stack: Stack) -> None:
    done = stack.doit("backup")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent == stack.folder / f".doit-images/backups/{stack.prefix}"
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "cache.data", "db.data"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "saved cache, db" in done.stderr

    one_set(stack, "second", version=2)
    stack.up(COMPOSE_PROFILES="door")  # which the restore does not know of
    asked = stack.doit("restore", str(folder))
    assert (asked.returncode != 0, "--yes" in asked.stderr) == (True, True)
    assert held(stack) == ["second of db", "second of cache"]
    done = stack.doit("restore", str(folder), "--yes")
    assert done.returncode == 0, done.stderr
    assert held(stack) == ["first of db", "first of cache"]
    assert stack.containers().keys() == {"db", "cache", "web", "door"}
    assert {one["State"]["Health"]["Status"] for one in stack.containers().values()} == {"healthy"}

    # What a restore replaced was saved before, and leads back.
    [replaced] = set((stack.folder / f".doit-images/backups/{stack.prefix}").iterdir()) - {folder}
    assert f"what was there is kept in {replaced}" in done.stderr
    assert (replaced / "db.data").read_text() == "second of db\n"


@pytest.mark.engine
def test_an_archive_that_cannot_be_used_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    one_set(stack, "newer", version=3)
    done = stack.doit("backup", "--to", str(tmp_path / "elsewhere"))
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path / "elsewhere", done.stderr
    one_set(stack, "today", version=2)
    refused = stack.doit("restore", str(folder), "--yes")
    assert "it is of 3; nothing was changed" in refused.stderr
    (folder / "db.data").write_text("damaged\n")
    damaged = stack.doit("restore", str(folder), "--yes")
    assert f"{folder}/db.data: this archive is damaged: a file has the wrong checksum" in damaged.stderr
    assert damaged.returncode == refused.returncode == 1
    assert "Traceback" not in damaged.stderr + refused.stderr
    assert held(stack) == ["today of db", "today of cache"]

    # What fails half-way is told, with the way back, and the stack runs.
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "db.data").write_text("")
    saved = manifest["stores"]["db"]
    saved |= {"version": "1", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    failed = stack.doit("restore", str(folder), "--yes")
    assert "load of db failed: it is empty; the stack was started again (doit restore " in failed.stderr
    assert held(stack) == ["today of db", "today of cache"]
    assert {one["State"]["Status"] for one in stack.containers().values()} == {"running"}

    docker("stop", "--time", "0", stack.ids()["cache"])
    gone = stack.doit("backup")
    assert "cache does not run, so its data cannot be saved" in gone.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "this folder is not an archive of doit backup"),
        ("{", "this archive is damaged"),
        ("[]", "this archive is damaged"),
        ('{"format": 2}', "made by a later version"),
        ('{"format": 1, "project": "p", "made": "t", "stores": {"a": {"file": "../x"}}}', "this archive is damaged"),
        ('{"format": 1, "project": "p", "made": "t", "stores": {"a": {"file": "../x", "bytes": 0, "version": "",'
         ' "parts": [], "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}}',
         "this archive is damaged: a file has the wrong checksum"),
        ('{"format": 1, "project": "p", "made": "t", "stores": {"a": {"file": "own", "bytes": 4, "version": "",'
         ' "parts": [], "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}}',
         "own: this archive is damaged: a file has the wrong checksum"),
    ],
)  # fmt: skip
def test_a_manifest_is_not_believed(tmp_path: Path, content: str | None, says: str) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/own").write_text("else")
    if content is not None:
        (tmp_path / "archive/manifest.json").write_text(content)
    with pytest.raises(UserError, match=says):
        backup.read(tmp_path / "archive")


@pytest.mark.parametrize(
    "said", [{"db": {}}, {"db": {"script": "x", "how": 1}}, {"nobody": {"script": "x"}}, [1], {"db": "x"},
             {"db": {"script": "x", "load": "y"}}, {"db": {"script": "x", "accepts": {"service": "no"}}}],
)  # fmt: skip
def test_a_declaration_that_is_wrong_is_told(said: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    monkeypatch.setattr(Compose, "config", lambda self: {"services": {"db": {}}, "x-backup": said})
    with pytest.raises(UserError, match="x-backup is not understood"):
        stores.declared(Compose((tmp_path / "compose.yml",), "p", {}))
