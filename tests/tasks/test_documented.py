"""The way that Docker's documentation teaches, which every comparison is held against: its images really run."""

from __future__ import annotations

import os
import subprocess
import uuid
from contextlib import ExitStack

import httpx
import pytest

from benchmarks.side_by_side import DOCUMENTED
from doit_images.stack import secrets
from doit_images.stack.ephemeral_stack import free_port
from tests.conftest import ROOT
from tests.owners import own

SERVICES = ("auth", "memory", "orchestrator")


@pytest.mark.all
@pytest.mark.engine
def test_the_documented_stack_is_built_and_serves(base_image: str) -> None:
    """What does not run is no peer: built by Compose alone, up and healthy, and people can register."""
    name = own("documented-")
    argv = ["docker", "compose", "--project-name", name, "--file", "docker-compose.yml", "--file", DOCUMENTED]
    with ExitStack() as stack:
        ports = {service: stack.enter_context(free_port()) for service in SERVICES}
        env = {key: value for key, value in os.environ.items() if not key.startswith("COMPOSE_")}
        env |= secrets.random_values(ROOT) | {"BASE_IMAGE": base_image, "SERVICE_WORKERS": "1"}
        env |= {f"{service.upper()}_PORT": str(port) for service, port in ports.items()}

        def compose(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*argv, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

        before = refs()
        stack.callback(remove, before)
        stack.callback(compose, "down", "--volumes", "--timeout", "0")
        built = compose("build")
        assert built.returncode == 0, built.stderr[-3000:]
        up = compose("up", "--no-build", "--detach", "--wait")
        assert up.returncode == 0, f"{up.stderr[-1500:]}\n{compose('logs', '--tail', '20').stdout[-3000:]}"
        images = compose("ps", "--format", "{{.Image}}").stdout.split()
        assert len(images) == 5
        assert all(image.endswith(":documented") for image in images)
        for service, port in ports.items():
            assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=None).status_code == 200, service
        person = {"username": "somebody", "password": uuid.uuid4().hex}
        answer = httpx.post(f"http://127.0.0.1:{ports['auth']}/users", json=person, timeout=None)
        assert answer.status_code == 201, answer.text


def refs() -> set[str]:
    """The names that documented images have in the engine."""
    argv = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=*/*:documented"]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def remove(kept: set[str]) -> None:
    """Remove those that were not there before; what another test still runs stays."""
    names = refs() - kept
    if names:
        subprocess.run(["docker", "image", "rm", *names], capture_output=True, check=False)
