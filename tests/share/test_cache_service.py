"""The registry and the Redis of a team, as docker-compose.cache.yml brings them up."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from doit_images.core.engine.client import Engine
from doit_images.share.index import KnownResult
from doit_images.share.lease import BuildCoordinator
from doit_images.share.registry import Registry
from tests import loopback
from tests.conftest import ROOT, Lab, docker

# What a shell, a configuration file or a URL could stumble over.
PASSWORD, REDIS_PASSWORD, READ_PASSWORD = "p w\"$'\\x", 's%"e', "r'\\o"
FILE = "docker-compose.cache.yml"
INDEX = "application/vnd.oci.image.index.v1+json"


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
        "CACHE_READ_PASSWORD": READ_PASSWORD,
        "CACHE_READ_PORT": str(loopback.free_port()),
        "COMPOSE_PROFILES": "readers",
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
    crew.index.publish({"f": KnownResult("d", 1.0, 2)})
    assert (crew.index.lookup(["f"]), said) == ({"f": KnownResult("d", 1.0, 2)}, [])


@pytest.mark.stack
def test_a_reader_can_read_and_nothing_else(service: dict[str, str], tmp_path: Path) -> None:
    """Neither push nor delete in the registry, neither write, delete nor lease in Redis."""
    import redis
    import requests

    def registry(method: str, path: str, user: str, **more: Any) -> int:
        port = service["CACHE_READ_PORT" if user == "reader" else "CACHE_PORT"]
        login = (user, READ_PASSWORD if user == "reader" else PASSWORD)
        return requests.request(method, f"http://localhost:{port}/v2/{path}", auth=login, **more).status_code

    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    put: dict[str, Any] = {"data": index, "headers": {"Content-Type": INDEX}}
    digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
    assert registry("PUT", "app/one/manifests/1", "builder", **put) == 201
    assert registry("GET", "app/one/manifests/1", "reader", headers={"Accept": INDEX}) == 200
    assert registry("PUT", "app/one/manifests/1", "reader", **put) == 405
    assert registry("DELETE", f"app/one/manifests/{digest}", "reader") == 405
    assert registry("POST", "app/one/blobs/uploads/", "reader") == 405
    wrong = requests.get(f"http://localhost:{service['CACHE_PORT']}/v2/", auth=("reader", READ_PASSWORD))
    assert wrong.status_code == 401, "at the registry that takes pushes there is no reader"

    place, said = f"127.0.0.1:{service['CACHE_REDIS_PORT']}/0", list[str]()
    urls = [f"redis://{user}:{quote(password)}@{place}" for user, password in
            (("", REDIS_PASSWORD), ("reader", READ_PASSWORD))]  # fmt: skip
    builder, reader = (BuildCoordinator(url, said.append) for url in urls)
    builder.index.publish({"r": KnownResult("d", 1.0, 2)})
    assert (reader.index.lookup(["r"]), said) == ({"r": KnownResult("d", 1.0, 2)}, [])
    with builder.acquire("l", lambda who: None):
        assert reader._seen("l")
    assert (reader.watch("l", pytest.fail), said) == (False, [])
    reader.index.publish({"r": KnownResult("forged", 1.0, 2)})
    assert said
    assert builder.index.lookup(["r"]) == {"r": KnownResult("d", 1.0, 2)}
    client = redis.Redis.from_url(urls[1])
    made, lease = "{doit-images}:made:r", "{doit-images}:leases"
    for never in (
        ("SET", made, "x"), ("DEL", made), ("EXPIRE", made, "1"), ("ZADD", lease, "1", "x"), ("HSET", lease, "x", "y"),
        ("EVAL", "return 1", "0"), ("EVAL_RO", "return 1", "0"), ("ZRANGE", lease, "0", "-1"), ("HGET", "else", "x"),
        ("MGET", "else"), ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"),
    ):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*never)


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
        assert "manifests forgotten: 0" in compose(service, "logs", "registry").stdout
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
