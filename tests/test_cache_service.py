"""The registry and the Redis of a team, as docker-compose.cache.yml brings them up."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.engine.client import Engine
from tasks.sharing.index import Made
from tasks.sharing.lease import BuildCoordinator
from tasks.sharing.registry import Registry
from tests import loopback
from tests.conftest import ROOT, Lab, docker

# What a shell, a configuration file or a URL could stumble over.
PASSWORD, REDIS_PASSWORD = "p w\"$'\\x", 's%"e'
FILE = "docker-compose.cache.yml"


@pytest.fixture(scope="module")
def service(engine: None) -> Iterator[dict[str, str]]:
    """The service under a name and on ports of its own; gives the environment that it was started with."""
    built = subprocess.run(
        ["python", "-m", "doit", "build_optimized"],
        cwd=ROOT,
        env={**os.environ, "COMPOSE_FILE": FILE, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    env = {
        **os.environ,
        "COMPOSE_PROJECT_NAME": f"cch-{uuid.uuid4().hex[:8]}",
        "COMPOSE_FILE": FILE,
        "CACHE_PORT": str(loopback.free_port()),
        "CACHE_REDIS_PORT": str(loopback.free_port()),
        "CACHE_PASSWORD": PASSWORD,
        "CACHE_REDIS_PASSWORD": REDIS_PASSWORD,
    }
    try:
        up = compose(env, "up", "--detach", "--wait")
        assert up.returncode == 0, up.stderr
        yield env
    finally:
        compose(env, "down", "--volumes")


def compose(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", "compose", *words], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.stack
def test_machines_share_through_it_with_a_login_and_not_without(
    service: dict[str, str], lab: Lab, busybox: str, tmp_path: Path
) -> None:
    from urllib.parse import quote

    registry = f"localhost:{service['CACHE_PORT']}"
    lab.environ = {
        "CACHE_REGISTRY": registry,
        "REDIS_URL": f"redis://:{quote(REDIS_PASSWORD)}@127.0.0.1:{service['CACHE_REDIS_PORT']}/0",
        "DOCKER_CONFIG": str(tmp_path / "login"),
    }
    compose_file = "services: {one: {image: PREFIX/one, build: {context: ., dockerfile: Dockerfile}}}\n"
    lab.write({"compose.yml": compose_file, "Dockerfile": f"FROM {busybox}\nRUN echo PREFIX > /x\n"})
    stranger = lab.doit("build_optimized")
    assert stranger.returncode == 0, stranger.stderr
    assert stranger.stderr.count(f"refuses the credentials of `docker login {registry}`") == 1
    login = subprocess.run(
        ["docker", "login", "--username", "builder", "--password-stdin", registry],
        input=PASSWORD, env=lab.env(), capture_output=True, text=True,
    )  # fmt: skip
    assert login.returncode == 0, login.stderr
    pushed = lab.doit("cache_export")
    assert "pushed 1 images" in pushed.stderr
    lab.close()
    assert lab.actions() == {"one": "pull"}
    done = lab.doit("build_optimized")
    assert "pulled one" in done.stderr
    everything = stranger.stderr + pushed.stderr + done.stderr + compose(service, "logs").stdout
    assert PASSWORD not in everything
    assert REDIS_PASSWORD not in everything
    said: list[str] = []
    crew = BuildCoordinator(lab.environ["REDIS_URL"], said.append)
    crew.index.publish({"f": Made("d", 1.0, 2)})
    assert (crew.index.lookup(["f"]), said) == ({"f": Made("d", 1.0, 2)}, [])


@pytest.mark.stack
def test_neither_starts_without_a_password(service: dict[str, str]) -> None:
    for name, variable in (("registry", "CACHE_PASSWORD"), ("redis", "REDIS_PASSWORD")):
        for value in ("", "change-me"):
            done = compose(service, "run", "--rm", "--no-deps", "--env", f"{variable}={value}", name)
            assert done.returncode == 78, name
            assert f"{variable} is empty or still the example's" in done.stdout + done.stderr


@pytest.mark.stack
def test_a_layer_that_was_collected_is_there_again_after_a_push(
    service: dict[str, str], busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted, collected at a restart, pushed again: nothing in memory says that its bytes are there."""
    host = f"localhost:{service['CACHE_PORT']}"
    ref = f"{host}/again/one:1"
    auth = base64.b64encode(f"builder:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    try:
        assert docker("tag", busybox, ref).returncode == 0
        assert docker("push", ref).returncode == 0
        registry = Registry(host)
        found = registry.image("again/one", "1", Engine().snapshot().platform)
        assert found
        registry.delete_manifest("again/one", found.digest)
        restarted = compose(service, "restart", "registry")
        assert restarted.returncode == 0, restarted.stderr
        assert compose(service, "up", "--detach", "--wait").returncode == 0
        assert docker("push", ref).returncode == 0
        for layer, size in found.layers.items():
            registry.take_blob("again/one", layer, tmp_path / "layer", size)
    finally:
        docker("image", "rm", "--force", ref)


@pytest.mark.stack
def test_both_are_confined_and_on_loopback(service: dict[str, str]) -> None:
    config = json.loads(compose(service, "config", "--format", "json").stdout)
    assert config["services"]["redis"]["environment"]["REDIS_EVICTION"] == "volatile-lru"
    for name in ("registry", "redis"):
        one = config["services"][name]
        assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"])
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert [port["host_ip"] for port in one["ports"]] == ["127.0.0.1"]
        uid = compose(service, "exec", "--no-TTY", name, "id", "-u").stdout.strip()
        assert uid not in ("", "0")
