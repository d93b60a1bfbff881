"""The engine of Debian's testing suite: fetched without touching this machine's apt, and which tests run on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import newer_engine
from benchmarks.newer_engine import mirror, named
from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.base.errors import UserError
from tasks import checks
from tests.conftest import docker


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["http://mirror.example/debian/ trixie Debian"], "http://mirror.example/debian/"),
        (["https://a.example/ trixie-security Debian", "https://b.example/ trixie Debian"], "https://b.example/"),
    ],
)
def test_it_comes_from_where_this_machine_takes_debian(lines: list[str], found: str) -> None:
    assert mirror(lines) == found


@pytest.mark.parametrize(
    "lines",
    [
        ["http://archive.example/ubuntu/ noble Ubuntu"],
        ["file:/srv/mirror/ trixie Debian"],
        ["http://me:password@mirror.example/ trixie Debian"],
        [],
    ],
)
def test_a_machine_that_takes_no_debian_from_a_network_has_none(lines: list[str]) -> None:
    with pytest.raises(UserError, match="the mirror that this machine's apt uses, which uses none"):
        mirror(lines)


URIS = """\
'http://x/docker.io_28.5.2%2bdfsg4-5_amd64.deb' docker.io_28.5.2+dfsg4-5_amd64.deb 19311940 SHA256:aa
'http://x/runc_1.3_amd64.deb' runc_1.3_amd64.deb 670 SHA256:bb
"""


def test_what_is_kept_is_named_after_all_its_versions() -> None:
    assert named(URIS).startswith("docker.io-28.5.2+dfsg4-5-")
    assert named(URIS) != named(URIS.replace("SHA256:bb", "SHA256:cc"))
    with pytest.raises(UserError, match=r"has no docker\.io"):
        named("")


def apt(folder: Path, says: str) -> None:
    """An apt-get that fails and says this."""
    (folder / "bin").mkdir()
    (folder / "bin/apt-get").write_text(f"#!/bin/sh\necho 'E: {says}' >&2\nexit 100\n")
    (folder / "bin/apt-get").chmod(0o755)


def test_without_a_network_what_was_fetched_last_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apt(tmp_path, "no network")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(newer_engine, "_KEYS", tmp_path)
    monkeypatch.setattr(newer_engine, "mirror", lambda _: "http://mirror.example/debian")
    with pytest.raises(UserError, match="the packages of Debian testing cannot be had: no network"):
        newer_engine.unpacked(tmp_path)
    (tmp_path / "docker.io-1").mkdir()
    (tmp_path / "last").write_text(str(tmp_path / "docker.io-1"))
    assert newer_engine.unpacked(tmp_path) == tmp_path / "docker.io-1"
    assert capsys.readouterr().err == ""  # asked today already
    os.utime(tmp_path / "last", (time.time() - 90000,) * 2)
    assert newer_engine.unpacked(tmp_path) == tmp_path / "docker.io-1"
    assert "going on with docker.io-1: the packages of Debian testing cannot be had" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "source", "expires"),
    [
        ("", "http://mirror.example/debian", "true"),
        ("https://snapshot.example/1", "https://snapshot.example/1", "false"),
    ],
)
def test_a_mirror_that_is_named_is_asked_and_may_be_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, source: str, expires: str
) -> None:
    """Where this machine's apt has none of Debian, as on Ubuntu, the tests of the newer engine would be skipped."""
    apt(tmp_path, "no network")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("DEBIAN_MIRROR", named)
    monkeypatch.setattr(newer_engine, "_KEYS", tmp_path)
    monkeypatch.setattr(newer_engine, "mirror", lambda _: "http://mirror.example/debian")
    with pytest.raises(UserError, match="no network"):
        newer_engine.unpacked(tmp_path)
    assert f" {source} testing main" in (tmp_path / "apt/sources.list").read_text()
    assert f'Acquire::Check-Valid-Until "{expires}";' in (tmp_path / "apt/apt.conf").read_text()


@pytest.mark.engine
def test_nothing_that_is_not_signed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not newer_engine._KEYS.exists():
        pytest.skip("there are no keys of Debian here: apt-get install debian-archive-keyring")
    release = tmp_path / "mirror/dists/testing/Release"
    release.parent.mkdir(parents=True)
    release.write_text("Suite: testing\nCodename: forky\nDate: Wed, 25 Nov 2026 03:00:00 UTC\nComponents: main\n")
    monkeypatch.setattr(newer_engine, "mirror", lambda _: f"file:{tmp_path}/mirror")
    with pytest.raises(UserError, match="is not signed"):
        newer_engine.unpacked(tmp_path)
    assert not list(tmp_path.glob("docker.io-*"))


@pytest.mark.engine
def test_it_is_newer_and_this_machine_stays_as_it_was(newer: TemporaryEngine) -> None:
    ask = ["docker", "version", "--format", "{{.Server.Version}} {{.Client.Version}}"]
    there = subprocess.run(ask, env=newer.environ, capture_output=True, text=True, check=True).stdout.split()
    assert all(int(version.split(".")[0]) >= 28 for version in there)
    assert docker("version").returncode == 0
    for plugin in ("buildx", "compose"):
        said = [
            subprocess.run(["docker", plugin, "version"], env=env, capture_output=True, text=True, check=True).stdout
            for env in (os.environ, newer.environ)
        ]
        assert said[0] != said[1] or "docker.io-" in os.environ["PATH"]
    sources = subprocess.run(["apt-get", "indextargets"], capture_output=True, text=True, check=True).stdout
    assert "testing" not in sources


class Ran:
    """What would have been run: each command with the engine that it would have asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
        self.commands: list[str] = []
        monkeypatch.setattr(checks, "run_tool", lambda argv, env=None: self._run(argv, env or {}, status))
        monkeypatch.setattr(newer_engine, "newer_engine", self._engine)
        monkeypatch.setattr(
            TemporaryEngine, "load", lambda engine, ref: self.commands.append(f"{engine.address}: {ref}")
        )

    def _run(self, argv: list[str], env: dict[str, str], status: int) -> object:
        assert argv[0] == sys.executable
        words = (word for word in argv[2:] if "=cache_dir=" not in word)  # a folder of its own each time
        self.commands.append(f"{env.get('ENGINE', 'here')}: {' '.join(words)}")
        return status or None

    @contextmanager
    def _engine(self, prefix: str, *, containerd_store: bool) -> Iterator[TemporaryEngine]:
        name = "containerd" if containerd_store else "classic"
        yield TemporaryEngine(name, {"ENGINE": name})


SIDE_BY_SIDE = " ".join(checks._SIDE_BY_SIDE)
ONCE, ELSEWHERE = f"here: pytest {SIDE_BY_SIDE} -m not all", f"here: pytest {SIDE_BY_SIDE} -m all"


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_IMAGE", "base:1")


def test_everything_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch)
    assert checks.run_tests([]) is None
    assert ran.commands == ["here: doit build_optimized", ONCE]


def test_what_confirms_it_elsewhere_runs_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch)
    assert checks.run_tests([], more=True) is None
    assert ran.commands == ["here: doit build_optimized", ONCE, ELSEWHERE]


def test_words_run_here_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch)
    assert checks.run_tests(["tests/core/planning/test_plan.py"]) is None
    assert checks.run_tests([], keyword="plan") is None
    assert ran.commands == ["here: pytest tests/core/planning/test_plan.py", "here: pytest -k plan"]


def test_what_uses_an_engine_runs_on_the_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch)
    assert checks.run_tests([], engine="testing", store="containerd") is None
    assert ran.commands == [
        "containerd: base:1",
        "containerd: doit build_optimized",
        f"containerd: pytest {SIDE_BY_SIDE} -m (engine or stack) and not all",
    ]
    ran.commands.clear()
    assert checks.run_tests(["tests/core/planning/test_plan.py", "-x"], engine="testing", store="classic") is None
    assert ran.commands == ["classic: base:1", "classic: pytest tests/core/planning/test_plan.py -x"]


def test_a_failure_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(monkeypatch, status=1)
    assert checks.run_tests([]) == 1
    assert len(ran.commands) == 1


def test_where_it_cannot_be_had_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Ran(monkeypatch)

    def none(*_: object, **__: object) -> None:
        raise UserError("no network")

    monkeypatch.setattr(newer_engine, "newer_engine", none)
    assert "no network" in str(checks.run_tests([], engine="testing"))
