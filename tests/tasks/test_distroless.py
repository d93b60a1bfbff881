"""RUNTIME_VARIANT=distroless: the same services, by the same Dockerfiles, with no program but Python."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Lab, docker, printed
from tests.tasks.test_images import STORES

pytestmark = pytest.mark.engine

LARGEST = 105_000_000  # auth, in all
# Who is asked for a program's name finds these, and whoever lists the image as well.
PROGRAMS = re.compile(r"(usr/(local/)?bin/(python(3(\.\d+)?)?|healthcheck)|opt/venv/bin/.*)$")


@pytest.fixture(scope="module")
def swarm(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """This repository's stack, distroless, under names of its own: auth and the stores are built."""
    lab = Lab(tmp_path_factory.mktemp("distroless"))
    text = (ROOT / "docker-compose.optimized.yml").read_text()
    text = text.replace("vllm-swarm/", "PREFIX/").replace("name: vllm-local-swarm", "name: PREFIX")
    lab.write({"compose.yml": text.replace("context: .", f"context: {ROOT}")})
    secret = f"={uuid.uuid4().hex}{uuid.uuid4().hex}"
    example = re.sub(r"(\w+_PORT)=\d+", r"\1=0", (ROOT / ".env.example").read_text())
    lab.environ["BASE_IMAGE"] = base_image  # by its own name where it stands in
    (lab.folder / ".env").write_text(example.replace("=change-me", secret).replace("=slim", "=distroless"))
    try:
        build(lab, "auth", *STORES)
        yield lab
    finally:
        lab.close()


def build(lab: Lab, *images: str, **environ: str) -> None:
    done = lab.doit(*(f"build_optimized:{image}" for image in images), **environ)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def files(swarm: Lab) -> dict[str, tuple[int, bytes]]:
    """The mode and the beginning of each file of auth, by its path."""
    container = docker("create", f"{swarm.prefix}/auth:optimized", "none").stdout.strip()
    try:
        export = subprocess.run(["docker", "export", container], capture_output=True, check=True).stdout
    finally:
        docker("rm", "--volumes", container)
    with tarfile.open(fileobj=io.BytesIO(export)) as archive:
        members = {member.name: member for member in archive if not member.isdir()}
        return {name: (one.mode, _beginning(archive, one)) for name, one in members.items()}


def _beginning(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    return file.read(200) if file else b""


def test_no_program_is_in_it_but_python(files: dict[str, tuple[int, bytes]]) -> None:
    programs = [path for path in files if re.search(r"(^|/)s?bin/", path) and not PROGRAMS.match(path)]
    assert programs == []
    scripts = {path: text.split(b"\n")[0] for path, (mode, text) in files.items() if text[:2] == b"#!" and mode & 0o111}
    assert scripts
    interpreters = {line[2:].split()[0].decode().lstrip("/") for line in scripts.values()}
    assert interpreters <= {"opt/venv/bin/python", "opt/venv/bin/python3"}
    assert interpreters <= files.keys()
    names = {path.rpartition("/")[2] for path in files}
    assert names.isdisjoint({"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "perl", "env", "su"})
    # What is left of the package manager is its list, for scanners, and of each package the license.
    assert [path for path in files if path.startswith("var/lib/dpkg/")] == ["var/lib/dpkg/status"]
    assert "usr/share/doc/libc6/copyright" in files


def test_nobody_becomes_somebody_else_by_a_file_of_it(files: dict[str, tuple[int, bytes]]) -> None:
    assert [path for path, (mode, _) in files.items() if mode & 0o6000] == []


def test_it_has_all_that_python_has(swarm: Lab) -> None:
    script = """if True:
        import ctypes, lzma, sqlite3, ssl, sys, traceback, uuid, zlib, bz2, locale, zoneinfo, json, decimal, unittest
        assert len(ssl.create_default_context().get_ca_certs()) > 100
        zoneinfo.ZoneInfo("Europe/Berlin")
        assert locale.setlocale(locale.LC_ALL, "") == "C.UTF-8"
        assert sys.version_info[:2] == (3, 13)
        try:
            json.loads("x")
        except ValueError:
            print(traceback.format_exc())
        """
    shown = printed("--network", "none", f"{swarm.prefix}/auth:optimized", "python", "-c", script)
    assert "raise JSONDecodeError(" in shown, "tracebacks show lines of the standard library"


def test_the_list_of_packages_is_true(swarm: Lab) -> None:
    done = swarm.doit("sbom", "base-python")
    assert done.returncode == 0, done.stderr
    listed = {package["name"] for package in json.loads(Path(done.stdout.split()[0]).read_text())["packages"]}
    assert {"libc6", "libssl3t64", "python3.13-minimal", "ca-certificates", "tzdata", "fastapi"} <= listed
    assert listed.isdisjoint({"apt", "dpkg", "dash", "bash", "coreutils", "tar"})


def test_it_is_small(swarm: Lab) -> None:
    assert _layers(f"{swarm.prefix}/auth:optimized")[0] <= LARGEST
    # The same built once more, slim: only the layer with the system is another, and at most half.
    small = _layers(f"{swarm.prefix}/base-python:optimized")
    build(swarm, "base-python", RUNTIME_VARIANT="slim")
    slim = _layers(f"{swarm.prefix}/base-python:optimized")
    assert small[1] <= slim[1] / 2
    told = json.loads(swarm.doit("image_sizes", "--json", "--set=RUNTIME_VARIANT=distroless", "base-python").stdout)
    assert told["ways"] == ["as they are", "RUNTIME_VARIANT=distroless"]
    [image] = told["images"]
    assert (image["standard"]["bytes"], image["optimized"]["bytes"]) == (slim[0], small[0])


def _layers(ref: str) -> tuple[int, ...]:
    """The size of an image, and of each of its layers that hold anything, the lowest first."""
    told = docker("history", "--human=false", "--format", "{{.Size}}", ref).stdout.split()
    sizes = [int(size) for size in reversed(told) if size != "0"]
    return sum(sizes), *sizes


def test_each_variant_has_fingerprints_of_its_own_and_the_stores_have_none(swarm: Lab) -> None:
    build(swarm, "auth")
    plan = swarm.plan(RUNTIME_VARIANT="slim")
    assert plan["base-python"]["action"] in ("build", "retag")
    assert {plan[store]["action"] for store in STORES} == {"fresh"}
    other = swarm.plan()
    assert other["auth"]["action"] == "fresh"
    for name in ("base-python", "auth", "memory"):
        assert plan[name]["fingerprint"] != other[name]["fingerprint"]
    reasons = swarm.plan(RUNTIME_VARIANT="slim", DISTROLESS_IMAGE="never/asked-for:1")["base-python"]
    assert reasons["fingerprint"] == plan["base-python"]["fingerprint"], "slim does not read it"


def test_a_published_base_stands_in_for_the_one_that_is_made(swarm: Lab, base_image: str) -> None:
    published, base = f"{swarm.prefix}/hardened:1", f"--build-arg=BASE_IMAGE={base_image}"
    argv = ["buildx", "build", "--quiet", "--target", "interpreter", "--tag", published, base]
    made = docker(*argv, "--file", str(ROOT / "docker/base-python/Dockerfile"), str(ROOT))
    assert made.returncode == 0, made.stderr
    build(swarm, "base-python", DISTROLESS_IMAGE=published)
    image = swarm.plan(DISTROLESS_IMAGE=published)["base-python"]
    assert image["action"] == "fresh"
    assert published in [base["ref"] for base in image["external_bases"] if base["digest"]]


def test_auth_and_a_store_come_up_healthy_and_a_shell_looks_into_them(swarm: Lab) -> None:
    argv = ["compose", "--file", str(swarm.folder / "compose.yml"), "--progress", "quiet"]
    try:
        up = docker(*argv, "up", "--detach", "--no-build", "--wait", "--wait-timeout", "120", "auth")
        assert up.returncode == 0, up.stderr + docker(*argv, "logs", "--tail", "20").stdout
        refused = docker(*argv, "exec", "--no-TTY", "auth", "sh", "-c", "true")
        assert refused.returncode != 0
        done = swarm.doit(
            "shell", "auth", "sh", "-c", "id -u; ls /proc/1/root/app; getent hosts redis postgres | wc -l"
        )
        assert done.stdout.split() == ["10001", "auth", "common", "2"], done.stderr
    finally:
        docker(*argv, "down", "--volumes", "--timeout", "5")
