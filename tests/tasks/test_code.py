"""docker/tools/code.py: what it makes of a service's code is the same from every checkout, and Python uses it."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path

import pytest

from tests.conftest import ROOT

TIME = 1_754_697_600_000_000_000


def bring(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the program in an image that is a folder: its three absolute paths are in it."""
    text = (ROOT / "docker/tools/code.py").read_text()
    for name in ("media", "srv", "app"):
        text = text.replace(f'"/{name}', f'"{folder}/{name}')
    (folder / "app").mkdir(exist_ok=True)
    os.utime(folder / "app", ns=(TIME, TIME))
    argv = [sys.executable, "-IS", "-c", text, "auth"]
    return subprocess.run(argv, capture_output=True, text=True, env={}, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    (tmp_path / "media/__init__.py").write_text("")
    (tmp_path / "srv/deep").mkdir(parents=True)
    (tmp_path / "srv/app.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "srv/deep/text").write_text("text")
    (tmp_path / "srv/run").write_text("#!/bin/sh\n")
    (tmp_path / "srv/run").chmod(0o700)
    (tmp_path / "srv/link").symlink_to("app.py")
    return tmp_path


def test_code_is_compiled_unwritable_and_of_one_time(folder: Path) -> None:
    done = bring(folder)
    assert (done.returncode, done.stderr) == (0, "")
    app = folder / "app"
    modes = {
        str(path.relative_to(app)): path.lstat().st_mode & 0o777 for path in app.rglob("*") if not path.is_symlink()
    }
    compiled = Path(cache_from_source("app.py")).name
    assert {name: mode for name, mode in modes.items() if "__pycache__" not in name} == {
        "common": 0o555, "common/__init__.py": 0o444, "auth": 0o555, "auth/app.py": 0o444,
        "auth/deep": 0o555, "auth/deep/text": 0o444, "auth/run": 0o555,
    }  # fmt: skip
    assert (app / "auth/link").readlink() == Path("app.py")
    assert {path.lstat().st_mtime_ns for path in (app, *app.rglob("*"))} == {TIME}
    source = app / "auth/app.py"
    kept = (app / "auth/__pycache__" / compiled).read_bytes()
    assert kept[:4] == MAGIC_NUMBER
    assert kept[4:8] == b"\3\0\0\0", "not by its hash, or not checked"
    assert kept[8:16] == source_hash(source.read_bytes())
    assert marshal.loads(kept[16:]) == compile(source.read_bytes(), str(source), "exec", dont_inherit=True)


def test_code_that_is_none_fails_the_build(folder: Path) -> None:
    (folder / "srv/app.py").write_text("def answer(:\n")
    done = bring(folder)
    assert done.returncode == 1
    assert "auth/app.py" in done.stderr
    assert "SyntaxError" in done.stderr
