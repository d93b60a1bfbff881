"""What does the engine that people will have next do with the same project?

Debian's testing suite has it: the engine, its client, buildx and Compose, years ahead of the stable one. apt fetches
and verifies the packages in folders of its own, so nothing of this machine's apt is touched; they are unpacked, never
installed, and kept. ``temporary_engine`` starts them beside the engine that is here. They come from the mirror that
this machine's apt uses, or from that in ``DEBIAN_MIRROR``, which may be a snapshot: then they are always the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands, lock
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from tasks import ROOT
from tasks.bases.debian import indextargets

SUITE = "testing"
FOLDER = ROOT / OWN_FOLDER / "engines"
_ENGINE = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd", "runc", "tini-static")
_PACKAGES = (*_ENGINE, "cosign")  # which judges our signatures
_MIRROR = "DEBIAN_MIRROR"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ASKED_AGAIN_SECONDS = 86400.0
_LINE = re.compile(r"'[^']+' (?P<file>(?P<package>[^_]+)_(?P<version>[^_]+)_\S+\.deb) \d+ (?P<digest>\S+)")


HERE = "here"
"""The value of a benchmark's ``--engine`` for what this machine has; ``SUITE`` is the other."""


@contextlib.contextmanager
def newer_engine(prefix: str = "newer-engine-", *, containerd_store: bool = False) -> Iterator[TemporaryEngine]:
    """Start the engine of Debian's testing suite for the block, with its own client, buildx and Compose.

    Raises ``UserError`` where it cannot be fetched or started.
    """
    with temporary_engine(prefix, containerd_store=containerd_store, programs=unpacked()) as engine:
        yield engine


def option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told with whose engine, buildx and Compose it measures."""
    what = f"{SUITE}: with engine, buildx and Compose of Debian's {SUITE} suite"
    parser.add_argument("--engine", choices=(HERE, SUITE), default=HERE, help=what)


def programs(engine: str) -> Path | None:
    """What ``temporary_engine`` is to start for the value of that option."""
    return unpacked() if engine == SUITE else None


def unpacked(folder: Path = FOLDER) -> Path:
    """The folder with the suite's packages, unpacked. The suite is asked once a day; where it cannot be reached, what
    was fetched last is taken, which is said on standard error.

    Raises ``UserError`` without apt, Debian's keys or a network, and where a package is not signed as it must be.
    """
    with lock.exclusive(folder / "lock", "waits for another process, which fetches the packages of Debian testing"):
        last = folder / "last"
        known = Path(last.read_text()) if last.exists() else None
        if known and not known.is_dir():
            known = None
        if known and time.time() - last.stat().st_mtime < _ASKED_AGAIN_SECONDS:
            return known
        try:
            found = _fetched(folder, known)
        except UserError as error:
            if known is None:
                raise
            print(f"going on with {known.name}: {error}", file=sys.stderr)
            return known
        last.write_text(str(found))
        return found


def compose_alone(folder: Path) -> dict[str, str]:
    """What makes the docker command that is here use the suite's Compose, and nothing else of it: an environment, with
    a new configuration in ``folder``. ``UserError`` as ``unpacked``."""
    plugins = folder / "cli-plugins"
    plugins.mkdir()
    (plugins / "docker-compose").symlink_to(unpacked() / "usr/libexec/docker/cli-plugins/docker-compose")
    return {"DOCKER_CONFIG": str(folder)}


def mirror(indextargets: Iterable[str]) -> str:
    """The mirror of Debian that this machine itself uses, from ``URI CODENAME ORIGIN`` lines; ``UserError`` for none.

    >>> mirror(["file:/srv/ trixie Debian", "http://mirror.example/debian/ trixie Debian"])
    'http://mirror.example/debian/'
    """
    for line in indextargets:
        uri, _, rest = line.partition(" ")
        codename, _, origin = rest.partition(" ")
        of_debian = origin == "Debian" and not codename.endswith("-security") and "@" not in uri
        if of_debian and uri.startswith(("http://", "https://")):
            return uri
    raise UserError(
        f"the engine of Debian {SUITE} comes from the mirror that this machine's apt uses, which uses none",
        remedy=f"{_MIRROR} names another",
    )


def named(uris: str) -> str:
    """A name for these versions, from what ``apt-get download --print-uris`` says: that of the engine, and a digest of
    all packages. Raises ``UserError`` where it names none."""
    found = {line["package"]: line for line in map(_LINE.match, uris.splitlines()) if line}
    if "docker.io" not in found:
        raise UserError(f"Debian {SUITE} has no docker.io for this machine")
    digest = hashlib.sha256("".join(sorted(line["digest"] for line in found.values())).encode()).hexdigest()
    return f"docker.io-{found['docker.io']['version']}-{digest[:8]}"


def _fetched(folder: Path, known: Path | None) -> Path:
    source = os.environ.get(_MIRROR) or mirror(indextargets())
    missing = [program for program in ("apt-get", "dpkg") if not shutil.which(program)]
    if missing or not _KEYS.exists():
        what = f"needs {', '.join(missing)}" if missing else "needs Debian's keys"
        raise UserError(
            f"the engine of Debian {SUITE} {what}",
            remedy="on Debian and Ubuntu: apt-get install debian-archive-keyring",
        )
    env = _apt_environ(folder, source)
    _apt(["update", "-o", "APT::Update::Error-Mode=any"], env, folder)
    done = folder / named(_apt(["download", "--print-uris", *_PACKAGES], env, folder))
    if not done.is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as passing:
            _apt(["download", *_PACKAGES], env, Path(passing))
            for package in sorted(Path(passing).glob("*.deb")):
                _run(["dpkg", "-x", str(package), f"{passing}/root"], env, folder)
            Path(passing, "root").replace(done)
        for old in folder.glob("docker.io-*"):
            if old not in (done, known):  # an engine of the last ones may still be running
                shutil.rmtree(old)
    return done


def _apt_environ(folder: Path, source: str) -> dict[str, str]:
    """The environment in which apt knows this suite alone and writes to ``folder`` alone; the proxy counts."""
    folder = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={_KEYS}] {source} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Default-Release": "",
        "APT::Sandbox::User": "root",  # the folder need not be readable by apt's own user
        "Acquire::Languages": "none",
        # A snapshot is signed as it was then.
        "Acquire::Check-Valid-Until": "false" if source == os.environ.get(_MIRROR) else "true",
    }
    (folder / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    return {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}


def _apt(words: list[str], env: Mapping[str, str], folder: Path) -> str:
    return _run(["apt-get", "--quiet=2", *words], env, folder)


def _run(argv: list[str], env: Mapping[str, str], folder: Path) -> str:
    done = commands.run(argv, env=env, cwd=folder)
    return done.checked(f"the packages of Debian {SUITE} cannot be had").stdout
