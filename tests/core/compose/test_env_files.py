"""What Compose's env files say reaches the builds: Compose is the judge."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.compose import env_files, made_env, project
from doit_images.core.compose.image import Image, Secret
from doit_images.core.run import Run
from tests.conftest import Lab, docker, docker_environ, file_in, needs_docker_command

COMPOSE = """
    services:
      app:
        image: PREFIX/app
        build: {context: ., secrets: [s, gone], args: [VERSION]}
    secrets: {s: {environment: TOKEN}, gone: {environment: NOT_SET}}
    """
DOCKERFILE = """
    FROM BUSYBOX
    ARG VERSION
    RUN --mount=type=secret,id=s,required=true --mount=type=secret,id=gone,required=true \\
        cat /run/secrets/s > /made && echo "$VERSION" >> /made && wc -c < /run/secrets/gone >> /made
    """


@pytest.mark.parametrize(
    ("files", "environ"),
    [
        ({".env": "TOKEN='hunter2 ${NOT} $$ x'\nVERSION=\"1\n2\" # three\n"}, {}),
        (
            {"a.env": "TOKEN=a\n", "b.env": "TOKEN=hunter2\nVERSION=3\n", ".env": "TOKEN=c\n"},
            {"COMPOSE_ENV_FILES": "a.env,b.env"},
        ),
        ({".env": "TOKEN=c\nVERSION=2\n"}, {"TOKEN": ""}),
    ],
)
def test_a_build_gets_what_compose_would_give_it(
    lab: Lab, busybox: str, files: dict[str, str], environ: dict[str, str]
) -> None:
    lab.write({"compose.yml": COMPOSE, "Dockerfile": DOCKERFILE.replace("BUSYBOX", busybox), **files})
    done = lab.doit("build_optimized", **environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("NOT_SET is not set") == 1, done.stderr
    ours = file_in(lab.ref("app"), "/made", lab.folder)
    kept = [path.read_text(errors="replace") for path in (lab.folder / ".doit-images").rglob("*") if path.is_file()]
    assert not [text for text in (*kept, done.stderr, done.stdout) if "hunter2" in text]
    docker("image", "rm", "--force", *lab.images())
    command = ["docker", "compose", "build", "--no-cache"]
    judge = subprocess.run(command, cwd=lab.folder, env=lab.env(**environ), capture_output=True, text=True)
    assert judge.returncode == 0, judge.stderr
    assert ours == file_in(lab.ref("app"), "/made", lab.folder)


@needs_docker_command
def test_the_platform_that_an_env_file_says_is_that_of_builds(tmp_path: Path) -> None:
    compose = tmp_path / "compose.yml"
    compose.write_text("services: {app: {build: .}, fixed: {platform: linux/386, build: .}}\n")
    (tmp_path / ".env").write_text("DOCKER_DEFAULT_PLATFORM=linux/arm64\n")
    for environ, platform in (({}, "linux/arm64"), ({"DOCKER_DEFAULT_PLATFORM": "linux/s390x"}, "linux/s390x")):
        images = project.load((compose,), {**os.environ, **environ}).images
        assert {name: image.platforms for name, image in images.items()} == {
            "app": (platform,),
            "fixed": ("linux/386",),
        }


@needs_docker_command
def test_a_value_that_compose_cannot_tell_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"TOKEN=a\xffb\n")
    with pytest.raises(UserError, match="TOKEN has a value that is not UTF-8"):
        env_files.with_values((tmp_path / "compose.yml",), {"PATH": os.environ["PATH"]}, ["TOKEN"])


def test_a_secret_without_a_value_is_said_once_for_all_that_have_it() -> None:
    here, gone, may = Secret("a", environment="A"), Secret("b", environment="B"), Secret("c", environment="C")
    images = [Image(name, name, "/", secrets=(here, gone, replace(may, optional=True))) for name in ("x", "y")]
    assert list(env_files.unset(images, {"A": ""})) == [
        "B is not set, so the secret b of x, y is empty, as with Compose"
    ]


@needs_docker_command
@pytest.mark.parametrize(
    ("declared", "secret", "problem"),
    [
        ("{environment: A}", Secret("s", environment="A", optional=True), ""),
        ("{external: true}", Secret("s", optional=True), "a build's secret comes from a file or a variable, and 's'"),
    ],
)
def test_what_a_file_says_of_a_secret(tmp_path: Path, declared: str, secret: Secret, problem: str) -> None:
    compose = tmp_path / "compose.yml"
    services = "{a: {build: {context: ., secrets: [s]}}}"
    compose.write_text(f"services: {services}\nsecrets: {{s: {declared}}}\nx-optional-secrets: [s]\n")
    image = project.load((compose,), os.environ).images["a"]
    assert image.secrets == (secret,)
    assert problem in image.problem
    assert bool(image.problem) == bool(problem)


@needs_docker_command
@pytest.mark.parametrize(
    ("files", "environ"),
    [
        ({".env": "COMPOSE_FILE=sub/c.yml\nV='a $$ b' # c\nW=\"1\"\n", "sub/.env": "V=2\nU=${V}3\n"}, {}),
        ({".env": "COMPOSE_FILE=sub/c.yml\nV=1\n", "sub/.env": "V=2\nW=3\n"}, {"V": "4"}),
        ({"my.env": "V=1\n", "sub/.env": "W=2\n"}, {"COMPOSE_FILE": "sub/c.yml", "COMPOSE_ENV_FILES": "my.env"}),
    ],
)
def test_files_below_are_read_with_the_env_file_above(
    tmp_path: Path, files: dict[str, str], environ: dict[str, str]
) -> None:
    args = '{V: "${V-}", W: "${W-}", U: "${U-}"}'
    text = f"name: below\nservices: {{app: {{build: {{context: ., args: {args}}}}}}}\n"
    for name, content in {**files, "sub/c.yml": text}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    env = {**docker_environ(), **environ}
    argv = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    wanted = json.loads(done.stdout.replace("$$", "$"))["services"]["app"]["build"]["args"]
    assert Run(None, env, tmp_path).project.images["app"].args == wanted


def test_an_env_file_that_was_made_counts_as_made_until_it_is_gone(tmp_path: Path) -> None:
    """Nothing works in a project that cannot be read: one whose `.env` was removed can be."""
    env = tmp_path / ".env"
    env.write_text(f"PASSWORD={'a0' * 32}\n")
    assert not made_env.is_ours(env, tmp_path)
    made_env.note(env, tmp_path)
    assert made_env.is_ours(env, tmp_path)
    env.unlink()
    assert not made_env.is_ours(env, tmp_path)
