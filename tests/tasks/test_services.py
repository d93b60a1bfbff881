"""The services' own tests, run where they belong: in their images, on Python 3.13, against the stack's real stores."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.buildkit.buildx import build_argv
from doit_images.core.run import Parts, Run
from tasks.bases import declared
from tests.conftest import ROOT, docker
from tests.owners import own
from tests.waiting import until

pytestmark = pytest.mark.stack
SERVICES = ("auth", "memory", "orchestrator")
# What all have in common is the same code on the same packages, and tried in one of them.
FOLDERS = {service: (service, *["common"] * (service == "auth")) for service in SERVICES}
PASSWORD = secrets.token_hex(16)
REACHED = {
    "POSTGRES_HOST": "postgres", "POSTGRES_PORT": "5432", "POSTGRES_USER": "swarm", "POSTGRES_DB": "swarm",
    "POSTGRES_PASSWORD": PASSWORD, "REDIS_HOST": "redis", "REDIS_PORT": "6379", "REDIS_PASSWORD": PASSWORD,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(engine: None) -> Run:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    return Run((ROOT / "docker-compose.optimized.yml",), environ, parts=Parts(base=declared.of))


@contextmanager
def stores(run: Run, name: str) -> Iterator[None]:
    """A PostgreSQL and a Redis from the stack's images, in the network of this name."""
    images = run.project.images
    assert docker("network", "create", name).returncode == 0
    try:
        for store in ("postgres", "redis"):
            if not run.local_images.snapshot().get(images[store].ref):
                pytest.skip(f"{images[store].ref} is not built: doit build_optimized")
            argv = ["run", "--detach", "--name", f"{name}-{store}", "--network", name, "--network-alias", store]
            started = docker(*argv, "--env", f"{store.upper()}_PASSWORD={PASSWORD}", images[store].ref)
            assert started.returncode == 0, started.stderr
        yield
    finally:
        docker("rm", "--force", "--volumes", f"{name}-postgres", f"{name}-redis")
        docker("network", "rm", name)


@pytest.fixture(scope="module")
def tests(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The container in which the tests of each service run. These mostly wait, so all do so at once, each with stores
    of its own: one fills Redis."""
    with ExitStack() as stack:
        names = {service: own("svc-") for service in SERVICES}
        for name in names.values():
            stack.enter_context(stores(run, name))
        for service, name in names.items():
            stack.callback(docker, "image", "rm", "--force", f"{name}/{service}:1")
            build(run, service, f"{name}/{service}:1", tmp_path_factory.mktemp(service) / "id")
        for service, name in names.items():
            with_extension(name)
            stack.callback(docker, "rm", "--force", "--volumes", name)
            start(service, name)
        yield names


def build(run: Run, service: str, tag: str, iidfile: Path) -> None:
    one = run.planner.decisions()[service].inputs
    argv = build_argv(
        replace(one.image, target="test"),
        parents={**run.local_images.stand_ins([one]), **one.parent_tags},
        labels={},
        tag=tag,
        iidfile=str(iidfile),
        environ=run.environ,
        progress="plain",
    )
    built = subprocess.run(argv, cwd=ROOT, env=dict(run.environ), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]


def with_extension(name: str) -> None:
    """Each run of tests has a database of its own: with pgvector, made by a role that may make one."""
    both = (f"{name}-postgres", f"{name}-redis")
    health = ("inspect", "--format", "{{.State.Health.Status}}", *both)
    until(lambda: docker(*health).stdout == "healthy\n" * 2, lambda: [docker("logs", one).stderr for one in both])
    for database, command in (("postgres", "ALTER ROLE swarm CREATEDB"), ("template1", "CREATE EXTENSION vector")):
        done = docker("exec", f"{name}-postgres", "psql", "-U", "postgres", "-d", database, "-c", command)
        assert done.returncode == 0, done.stderr


def start(service: str, name: str) -> None:
    mounts = [
        word
        for folder in ("services", "model_server")
        for word in ("--mount", f"type=bind,source={ROOT}/tests/{folder},target=/mnt/tests/{folder},readonly")
    ]
    reached = [word for key, value in REACHED.items() for word in ("--env", f"{key}={value}")]
    folders = [f"/mnt/tests/services/{one}" for one in FOLDERS[service]]
    # What needs no store has passed in the step that made this image, but for what all have in common.
    chosen = [] if "common" in FOLDERS[service] else ["-m", "stores"]
    command = ["python", "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *chosen, *folders]
    argv = ["run", "--detach", "--name", name, "--network", name, *reached, *mounts, f"{name}/{service}:1", *command]
    started = docker(*argv)
    assert started.returncode == 0, started.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_passes_its_own_tests(service: str, tests: dict[str, str]) -> None:
    status = docker("wait", tests[service]).stdout
    done = docker("logs", tests[service])
    assert status == "0\n", done.stdout[-20_000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
