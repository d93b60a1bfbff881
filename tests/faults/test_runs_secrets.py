"""Secrets in every place that can hold one, and afterwards in no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import loopback
from tests.conftest import ROOT
from tests.faults.project import SOON, Project, ended, running
from tests.faults.test_kill_group import builds
from tests.waiting import comes, patience

pytestmark = pytest.mark.engine


def planted() -> str:
    return f"planted-{uuid.uuid4().hex}"


@pytest.fixture
def secrets(project: Project, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where each secret was planted: in files, variables, ``.env``, URLs, and logins of a registry and a Redis."""
    found = {
        name: planted() for name in ("file", "variable", "dotenv", "index", "argument", "redis", "registry", "url")
    }
    with (
        loopback.registry(tmp_path / "registry", ("me", found["registry"])) as registry,
        loopback.redis(tmp_path / "redis", found["redis"]) as redis,
    ):
        compose = json.loads((project.folder / "compose.yml").read_text())
        compose["secrets"] = {
            "a": {"file": "./token"},
            "b": {"environment": "TEAM_TOKEN"},
            "c": {"environment": "PIP_INDEX_URL"},
        }
        right = compose["services"]["right"]
        right["build"] |= {"secrets": ["a", "b", "c"], "args": {"API_TOKEN": "${API_TOKEN}"}}
        right["environment"] = {"DB_PASSWORD": "${DB_PASSWORD}"}
        mounts = " ".join(f"--mount=type=secret,id={name},required=true" for name in "abc")
        project.write(
            {
                "compose.yml": json.dumps(compose),
                "token": found["file"],
                ".env": f"DB_PASSWORD={found['dotenv']}\n",
                "right/Dockerfile": "FROM base\nCOPY f /of/right\n"
                f"RUN {mounts} test -s /run/secrets/a -a -s /run/secrets/b; sleep 1; cat /of/* > /all-right\n",
            }
        )
        config = tmp_path / "docker"
        config.mkdir()
        project.environ |= {
            "TEAM_TOKEN": found["variable"],
            "API_TOKEN": found["argument"],
            "PIP_INDEX_URL": f"https://me:{found['index']}@index.invalid/simple",
            "HTTPS_PROXY": f"http://me:{found['url']}@127.0.0.1:9",
            "NO_PROXY": "localhost,127.0.0.1,.local",
            "CACHE_REGISTRY": registry.address,
            "REDIS_URL": f"redis://:{found['redis']}@{redis.address}/0",
            "DOCKER_CONFIG": str(config),
        }
        words = ["docker", "login", "--username", "me", "--password-stdin", registry.address]
        subprocess.run(words, env=project.env(), input=found["registry"].encode(), check=True, capture_output=True)
        yield found


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def argvs(project: Project, secrets: dict[str, str], stop: threading.Event, seen: set[str]) -> None:
    """Watch the command lines of the whole machine until told to stop."""
    while not stop.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            seen |= {f"{name} in {line[:200]}" for name, value in secrets.items() if value in line}
        time.sleep(0.02)


def layers(project: Project, folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that an engine gives of the images: configuration, history, and each file of each layer."""
    archive = folder / "images.tar"
    names = [f"{project.prefix}/{name}:latest" for name in ("base", "left", "right", "leaf")]
    project.docker("save", "--output", str(archive), *names)
    with tarfile.open(archive) as whole:
        for entry in whole:
            data = whole.extractfile(entry) if entry.isfile() else None
            if data is None:
                continue
            content = data.read()
            yield entry.name, content
    archive.unlink()


def test_none_is_anywhere_else(project: Project, secrets: dict[str, str], tmp_path: Path) -> None:
    stop, seen = threading.Event(), set[str]()
    watcher = threading.Thread(target=argvs, args=(project, secrets, stop, seen))
    watcher.start()
    said = []
    good = (project.folder / "right/Dockerfile").read_text()
    try:
        for words in (
            ["-v", "2", "build_optimized"],
            ["plan", "--json"],
            ["plan", "--inputs"],
            ["plan", "--bake"],
            ["history", "--json"],
            ["build_report"],
            ["doctor"],
            ["cache_stats", "--json"],
            ["cache_export", str(tmp_path / "out")],
        ):
            done = project.doit(*words)
            said.append((" ".join(words), f"{done.stdout}{done.stderr}".encode()))
            assert "Traceback" not in done.stderr, done.stderr
        project.write({"right/Dockerfile": f"{good}RUN env; false\n"})
        failed = project.doit("-v", "2", "build_optimized")
        assert failed.returncode != 0
        said.append(("a failed build", f"{failed.stdout}{failed.stderr}".encode()))
        project.write({"right/Dockerfile": f"{good}RUN sleep 60\n"})
        with ended(project.begun()) as doit:
            comes(lambda: [1 for argv in running(f"FAULTS_ID={project.id}").values() if "buildx" in argv], 20)
            time.sleep(1)
            doit.kill()
        said.append(("a killed run", project.output.encode()))
    finally:
        stop.set()
        watcher.join()
    project.write({"right/Dockerfile": good})
    assert project.doit("build_optimized").returncode == 0
    places = [*said, *texts(project.folder / ".doit-images"), *texts(tmp_path / "state"), *texts(project.scratch)]
    places += [*layers(project, tmp_path), *texts(tmp_path / "registry" / "data")]
    assert len(places) > 40
    found = {(name, place) for place, content in places for name, value in secrets.items() if value.encode() in content}
    assert not found, found
    assert not {one for one in seen if "redis-server" not in one}, seen


def test_no_process_that_knows_one_dumps_its_memory(project: Project, secrets: dict[str, str]) -> None:
    """Whoever crashes, or is ended with Ctrl-\\: neither a file nor a program that collects core dumps gets them."""
    good = (project.folder / "right/Dockerfile").read_text()
    project.write({"right/Dockerfile": f"{good}RUN sleep 60\n"})
    before = set(Path(ROOT).iterdir())
    argv = ["prlimit", "--core=unlimited", *project.argv("build_optimized:right")]
    with ended(project.started(argv)) as doit:
        assert comes(lambda: "built base" in project.output and builds(project), 60), project.output
        limits = {
            line: Path(f"/proc/{pid}/limits").read_text().partition("Max core file size")[2].split()[0]
            for pid, line in project.processes().items()
        }
        assert len(limits) >= 3, "doit, its guard and buildx"
        assert set(limits.values()) == {"1"}, limits
        [guard] = [pid for pid, argv in project.processes().items() if "trap '' INT" in argv]
        os.kill(guard, signal.SIGSEGV)
        os.kill(builds(project)[0], signal.SIGABRT)
        doit.send_signal(signal.SIGQUIT)
        doit.wait(patience())
        assert comes(lambda: not project.processes(), SOON)
    assert set(Path(ROOT).iterdir()) == before
    assert not [*project.folder.rglob("core*"), *Path("/").glob("core*")], "the guard's folder is /"
