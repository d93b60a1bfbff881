"""The exact command line of every build."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import buildx
from doit_images.core.buildkit.buildx import build_argv, is_at_least
from doit_images.core.compose.image import Image, Secret

PLAIN = Image(name="auth", ref="app/auth:1", context="/src", dockerfile="/src/Dockerfile")
HEAD = ["docker", "buildx", "build", "--progress=rawjson", "--iidfile", "/tmp/id", "--tag", "t:1"]


def argv(image: Image, **more: object) -> list[str]:
    arguments: dict[str, object] = {
        "parents": {},
        "labels": {},
        "tag": "t:1",
        "iidfile": "/tmp/id",
        "environ": {},
        **more,
    }
    return build_argv(image, **arguments)


def test_a_plain_image() -> None:
    assert argv(PLAIN) == [*HEAD, "--file", "/src/Dockerfile", "/src"]


def test_a_secret_may_lie_anywhere() -> None:
    command = argv(replace(PLAIN, secrets=(Secret("ca", file='/a,b "c"/ca.crt'),)))
    assert command[command.index("--secret") + 1] == 'id=ca,"src=/a,b ""c""/ca.crt"'


def test_every_setting() -> None:
    image = replace(
        PLAIN,
        target="app",
        args={"B": "2", "A": "1", "FROM_ENV": None},
        contexts={"data": "/data", "base": "service:base", "other": "docker-image://x:1"},
        secrets=(
            Secret("ca", file="/ca.crt"),
            Secret("token", environment="TOKEN"),
            Secret("none", environment="NONE"),
        ),
        ssh=("default",),
        platforms=("linux/amd64", "linux/arm64"),
        labels={"a": "b"},
        network="host",
        shm_size="64000000",
        extra_hosts=("host:1.2.3.4",),
        ulimits=("nofile=1:2",),
        entitlements=("security.insecure",),
        privileged=True,
        provenance="mode=max",
        sbom="true",
        no_cache_filter=("a", "b"),
        no_cache=True,
        pull=True,
    )
    command = argv(
        image,
        parents={"base": "app/base:in-00"},
        labels={"own": "1"},
        environ={"TOKEN": "hunter2"},
        extra=["--builder", "big"],
    )
    assert command == [
        *HEAD,
        *("--file", "/src/Dockerfile", "--target", "app"),
        *("--build-arg", "A=1", "--build-arg", "B=2", "--build-arg", "FROM_ENV"),
        *("--build-context", "data=/data", "--build-context", "other=docker-image://x:1"),
        *("--build-context", "base=docker-image://app/base:in-00"),
        *("--secret", "id=ca,src=/ca.crt", "--secret", "id=token,env=TOKEN", "--secret", "id=none,env=NONE"),
        *("--ssh", "default", "--label", "a=b", "--label", "own=1"),
        *("--platform", "linux/amd64,linux/arm64", "--network", "host", "--shm-size", "64000000"),
        *("--add-host", "host:1.2.3.4", "--ulimit", "nofile=1:2"),
        *("--allow", "security.insecure", "--allow", "network.host"),
        *("--no-cache-filter", "a", "--no-cache-filter", "b", "--provenance=mode=max", "--sbom=true"),
        *("--builder", "big", "/src"),
    ]
    assert "hunter2" not in " ".join(command)


def test_an_inline_dockerfile_is_read_from_standard_input() -> None:
    image = replace(PLAIN, dockerfile="", dockerfile_inline="FROM scratch\n")
    assert argv(image) == [*HEAD, "--file", "-", "/src"]


def test_a_remote_context_keeps_its_dockerfile_relative() -> None:
    image = replace(PLAIN, context="https://example.org/app.git", dockerfile="docker/Dockerfile")
    assert argv(image) == [*HEAD, "--file", "docker/Dockerfile", "https://example.org/app.git"]


@pytest.mark.parametrize(
    ("version", "able"),
    [
        ("github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", True),
        ("github.com/docker/buildx v0.12.1 30feaa1a", False),
        ("v0.36.0", True),
        ("1.0.0", True),
        ("github.com/docker/buildx devel abc", True),
    ],
)
def test_which_buildx_is_too_old(version: str, able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildx, "version", lambda: version)
    assert is_at_least(version, buildx.LEAST) is able
    with contextlib.nullcontext() if able else pytest.raises(UserError, match="docker buildx is older"):
        buildx.require()
