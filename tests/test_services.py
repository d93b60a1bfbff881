"""The services' own tests, run where they belong: in their images, on Python 3.13, against the stack's real stores."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.buildkit.buildx import build_argv
from doit_images.core.run import Run
from tests.conftest import ROOT, docker
from tests.owners import own
from tests.waiting import until

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def run(engine: None) -> Run:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    return Run((ROOT / "docker-compose.optimized.yml",), environ)


@pytest.fixture(scope="module")
def stores(run: Run) -> Iterator[list[str]]:
    """A PostgreSQL and a Redis from the stack's images; what `docker run` needs to reach them."""
    name = own("svc-")
    password = secrets.token_hex(16)
    images = run.project.images
    assert docker("network", "create", name).returncode == 0
    try:
        for store in ("postgres", "redis"):
            if not run.snapshot().get(images[store].ref):
                pytest.skip(f"{images[store].ref} is not built: doit build_optimized")
            variable = f"{store.upper()}_PASSWORD"
            argv = ["run", "--detach", "--rm", "--name", f"{name}-{store}", "--network", name, "--network-alias", store]
            started = docker(*argv, "--env", f"{variable}={password}", images[store].ref)
            assert started.returncode == 0, started.stderr
        for store in ("postgres", "redis"):
            _await_health(f"{name}-{store}")
        # Each test has a database of its own: with pgvector, made by a role that may make one.
        for database, command in (("postgres", "ALTER ROLE swarm CREATEDB"), ("template1", "CREATE EXTENSION vector")):
            done = docker("exec", f"{name}-postgres", "psql", "-U", "postgres", "-d", database, "-c", command)
            assert done.returncode == 0, done.stderr
        known = {"POSTGRES_HOST": "postgres", "POSTGRES_PORT": "5432", "POSTGRES_USER": "swarm", "POSTGRES_DB": "swarm"}
        known |= {
            "POSTGRES_PASSWORD": password,
            "REDIS_HOST": "redis",
            "REDIS_PORT": "6379",
            "REDIS_PASSWORD": password,
        }
        yield ["--network", name, *(word for key, value in known.items() for word in ("--env", f"{key}={value}"))]
    finally:
        docker("rm", "--force", "--volumes", f"{name}-postgres", f"{name}-redis")
        docker("network", "rm", name)


@pytest.mark.parametrize("service", ["auth", "memory", "orchestrator"])
def test_a_service_passes_its_own_tests(service: str, run: Run, stores: list[str], tmp_path: Path) -> None:
    one = run.decisions()[service].inputs
    tag = f"{own('svc-')}/{service}:1"
    argv = build_argv(
        replace(one.image, target="test"),
        parents=one.parent_tags,
        labels={},
        tag=tag,
        iidfile=str(tmp_path / "id"),
        environ=run.environ,
        progress="plain",
    )
    built = subprocess.run(argv, cwd=ROOT, env=dict(run.environ), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    try:
        mounts = [
            word
            for folder in ("services", "model_server")
            for word in ("--mount", f"type=bind,source={ROOT}/tests/{folder},target=/mnt/tests/{folder},readonly")
        ]
        # What all have in common is the same code on the same packages, and tried in one of them.
        folders = [f"/mnt/tests/services/{one}" for one in (service, *["common"] * (service == "auth"))]
        command = ["python", "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *folders]
        done = docker("run", "--rm", *stores, *mounts, tag, *command)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    finally:
        docker("image", "rm", "--force", tag)


def _await_health(container: str) -> None:
    health = ("inspect", "--format", "{{.State.Health.Status}}", container)
    until(lambda: docker(*health).stdout == "healthy\n", lambda: docker("logs", container).stderr)
