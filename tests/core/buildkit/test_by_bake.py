"""Builds whose command line no system takes: Compose and `docker buildx bake` are the judges."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import bake, buildx, by_bake
from doit_images.core.compose.image import Image, Secret
from doit_images.core.inputs.image_inputs import ImageInputs
from tests.conftest import Lab, docker, file_in, needs_docker_command

# ${…} and %{…} are bake's own; the value is one of an argument whose name is that of a secret.
BIG = "hunter2 ${x} %{if} $$ \\ \" ' é\n" + "b" * 200_000


@pytest.mark.parametrize("inline", [False, True])
def test_an_argument_of_200_kb_is_built_as_compose_builds_it(lab: Lab, inline: bool) -> None:
    # Its value is not expanded: for that, BuildKit takes the square of its length.
    dockerfile = "FROM scratch\nARG BIG_TOKEN\nARG SMALL\nCOPY a${BIG_TOKEN:+$SMALL} /made\n"
    label = {"l": "x" * 150_000}
    build = {"context": ".", "args": {"BIG_TOKEN": BIG.replace("$", "$$"), "SMALL": "s"}, "labels": label}
    if inline:
        build["dockerfile_inline"] = dockerfile.replace("$", "$$")
    app = {"image": f"{lab.prefix}/app", "build": build}
    compose = json.dumps({"services": {"app": app}})
    lab.write({"Dockerfile": dockerfile, "compose.yml": compose, "as": "set\n", "a": "not set\n"})
    assert lab.build() == {"app": "built"}
    assert lab.actions() == {"app": "fresh"}
    kept = [path for path in (lab.folder / ".doit-images").rglob("*") if path.is_file() and path.name != "project.json"]
    assert not [path for path in kept if b"hunter2" in path.read_bytes()]
    made, ours = lab.image_id(lab.ref("app")), file_in(lab.ref("app"), "/made", lab.folder)
    assert docker("image", "inspect", "--format", "{{.Config.Labels.l}}", made).stdout.strip() == label["l"]
    subprocess.run(["docker", "compose", "build"], cwd=lab.folder, env=lab.env(), capture_output=True, check=True)
    assert made != lab.image_id(lab.ref("app"))
    assert ours == file_in(lab.ref("app"), "/made", lab.folder) == "set\n"


@needs_docker_command
def test_bake_reads_every_character_of_a_value() -> None:
    args, label = {"BIG_TOKEN": BIG, "${x}": "1"}, {"l": BIG}
    image = Image(name="app", ref="app:1", context="/src", dockerfile="/src/Dockerfile", args=args)
    argv = buildx.build_argv(image, parents={}, labels=label, iidfile="/id", environ={})
    words, stdin = by_bake.fitting(argv, None, {}, Path("/"))
    with cast("IO[bytes]", stdin) as stream:
        printed = subprocess.run([*words, "--print"], stdin=stream, cwd="/", capture_output=True, check=True).stdout
    target = json.loads(printed)["target"]["built"]
    # What it prints can itself be read by bake.
    read = {key: {name: text.replace("$${", "${").replace("%%{", "%{") for name, text in target[key].items()}
            for key in ("args", "labels")}  # fmt: skip
    assert read == {"args": args, "labels": label}


WHOLE = Image(
    name="app",
    ref="app:1",
    context="/src",
    dockerfile="/src/Dockerfile",
    target="app",
    args={"A": "1=${x}", "BIG": "b" * by_bake._LONGEST, "FROM_ENV": None, "UNSET": None},
    contexts={"data": "/data", "other": "docker-image://x:1"},
    secrets=(Secret("ca", file="/c,a"), Secret("token", environment="TOKEN")),
    ssh=("default",),
    platforms=("linux/amd64", "linux/arm64"),
    labels={"a": "b=c"},
    network="host",
    shm_size="64000000",
    extra_hosts=("host:1.2.3.4", "host:::1", "h2:1.1.1.1"),
    ulimits=("nofile=1:2",),
    privileged=True,
    provenance="mode=max",
    sbom="true",
    cache_from=("type=local,src=/c",),
    no_cache_filter=("a", "b"),
    no_cache=True,
)


def asked(image: Image, version: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, Any]]:
    monkeypatch.setattr(buildx, "version", lambda: version)
    environ = {"FROM_ENV": "e"}
    argv = buildx.build_argv(
        image,
        parents={},
        labels={},
        tag="app:1",
        iidfile="/id",
        environ=environ,
        extra=["--builder", "b", "--no-cache", "--cache-from", "type=local,src=/c", "--output", "type=docker"],
    )
    words, stdin = by_bake.fitting(argv, None, environ, Path("/"))
    with cast("IO[bytes]", stdin) as stream:
        return words, json.load(stream)["target"]["built"]


def test_a_definition_says_what_the_command_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    words, target = asked(WHOLE, "0.36.0", monkeypatch)
    head = [
        "docker",
        "buildx",
        "bake",
        "--file",
        "-",
        "--allow=network.host",
        "--allow=security.insecure",
        "--allow=ssh",
    ]
    assert words == [*head, "--progress=rawjson", "--metadata-file=/id", "--builder=b", "built"]
    given = replace(WHOLE, args={**{name: WHOLE.args[name] for name in ("A", "BIG")}, "FROM_ENV": "e"})
    judge = bake.definition({"app": ImageInputs(given, Path("/"))})["target"]["app"]
    for each in (target, judge):
        each["entitlements"] = sorted(each["entitlements"])
    assert target == judge


@pytest.mark.parametrize(("size", "fits"), [(by_bake._LONGEST - len("A="), True), (by_bake._LONGEST, False)])
def test_the_longest_word_is_what_the_system_takes(size: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildx, "version", lambda: "0.13.1")
    word = "A=" + "é" * (size // 2 - 1) + "b" * (2 + size % 2)
    argv = ["docker", "buildx", "build", "--build-arg", word, "."]
    assert (by_bake.fitting(argv, None, {}, Path("/"))[0] == argv) is fits
    try:
        subprocess.run(["true", word], check=True)
        taken = True
    except OSError:
        taken = False
    assert taken is fits


def test_many_words_are_too_long_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildx, "version", lambda: "0.13.1")
    argv = ["docker", "buildx", "build", *(f"--label=l{n}={'x' * 100_000}" for n in range(11)), "."]
    words, stdin = by_bake.fitting(argv, None, {}, Path("/"))
    assert words[:3] == ["docker", "buildx", "bake"]
    cast("IO[bytes]", stdin).close()


@pytest.mark.parametrize("key", ["network", "extra_hosts", "privileged"])
def test_what_an_old_bake_would_pass_over_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(WHOLE, network="", extra_hosts=(), privileged=False)
    assert "--allow=ssh" not in asked(plain, "0.13.1", monkeypatch)[0]
    with pytest.raises(UserError, match="buildx is too old to be told"):
        asked(replace(plain, **{key: getattr(WHOLE, key)}), "0.13.1", monkeypatch)
