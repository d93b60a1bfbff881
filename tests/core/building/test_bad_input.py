"""Bad input: one clear sentence with its place and a remedy, a status that is not 0, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Lab, needs_docker_command

SILENT = "unix:///nowhere/docker.sock"
GOOD = {
    "compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: {context: app}}}\n",
    "app/Dockerfile": "FROM scratch\nCOPY app.txt /\n",
    "app/app.txt": "app\n",
}
# A buildx that knows no --progress=rawjson, as a plugin of the docker command.
OLD = """\
[ "$1" = docker-cli-plugin-metadata ] && exec echo '{"SchemaVersion": "0.1.0", "Vendor": "x", "Version": "v0.12.1"}'
[ "$1" = version ] || [ "$2" = version ] && exec echo "github.com/docker/buildx v0.12.1 30feaa1a"
"""


@pytest.fixture
def offline(tmp_path: Path) -> Lab:
    """A project whose engine is off."""
    one = Lab(tmp_path)
    one.environ = {"DOCKER_HOST": SILENT}
    one.write(GOOD)
    return one


def only_sentence(text: str) -> str:
    """What was said, without the summary; it must be a sentence and no traceback."""
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 3, text
    return lines[0]


@needs_docker_command
def test_the_tasks_are_listed_with_the_engine_off(offline: Lab) -> None:
    done = offline.doit("list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"build_optimized", "build_app_optimized", "plan", "doctor", "test"} <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 2 for line in lines), "every task has a line of help"


@pytest.mark.parametrize("command", ["plan --json", "plan app", "history --json"])
def test_whoever_reads_the_output_may_have_seen_enough(lab: Lab, command: str) -> None:
    lab.write(GOOD)
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "doit", "-f", str(ROOT / "dodo.py"), *command.split()]
    done = subprocess.run(argv, cwd=ROOT, env=lab.env(), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@needs_docker_command
@pytest.mark.parametrize("command", ["plan", "build_optimized"])
def test_the_engine_is_off(offline: Lab, command: str) -> None:
    done = offline.doit(command)
    assert done.returncode != 0
    said = only_sentence(done.stderr)
    assert f"no Docker engine answers at {SILENT}" in said
    assert "DOCKER_HOST leads there" in said


@needs_docker_command
@pytest.mark.parametrize("command", ["plan", "build_optimized", "doctor"])
def test_a_context_that_is_not_there_is_not_the_compose_files_fault(offline: Lab, command: str) -> None:
    done = offline.doit(command, DOCKER_HOST="", DOCKER_CONTEXT="nosuch")
    assert done.returncode != 0
    said = only_sentence(done.stdout + done.stderr if command != "doctor" else done.stderr)
    if command == "doctor":
        assert "engine" in said
        assert done.stdout.count("there is no Docker context 'nosuch'") == 2, "of the engine, and of the project"
    else:
        assert said.startswith("there is no Docker context 'nosuch' (unset DOCKER_CONTEXT")
    assert "refuses" not in done.stdout + done.stderr


@needs_docker_command
def test_a_missing_dockerfile(offline: Lab) -> None:
    (offline.folder / "app/Dockerfile").unlink()
    done = offline.doit("doctor")
    assert done.returncode != 0
    assert "there is no Dockerfile" in done.stdout


@pytest.mark.engine
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"app/Dockerfile": None}, "there is no Dockerfile '"),
        ({"app/app.txt": None}, "app/Dockerfile:2: COPY: the context has no 'app.txt'"),
        ({"app/Dockerfile": "FROM scratch\nCPOY app.txt /\n"}, "app/Dockerfile:2: "),
    ],
)
def test_a_broken_image(lab: Lab, files: dict[str, str | None], said: str) -> None:
    lab.write(GOOD)
    lab.build()
    before = lab.image_id(lab.ref("app"))
    for name, text in files.items():
        (lab.folder / name).unlink() if text is None else lab.write({name: text})
    for command in ("plan", "build_optimized"):
        done = lab.doit(command)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert lab.image_id(lab.ref("app")) == before


@pytest.mark.engine
def test_a_stage_that_is_misspelt_is_an_image_that_nobody_has(lab: Lab) -> None:
    lab.write(GOOD)
    lab.write({"app/Dockerfile": "FROM scratch AS builder\nFROM scratch\nCOPY --from=bulder /x /\n"})
    done = lab.doit("build_optimized")
    assert done.returncode != 0
    assert "bulder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.engine
def test_a_cycle_between_images(lab: Lab) -> None:
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                services:
                  one: {image: PREFIX/one, build: {context: one}}
                  two: {image: PREFIX/two, build: {context: two}}
                """,
            "one/Dockerfile": "FROM PREFIX/two\n",
            "two/Dockerfile": "FROM PREFIX/one\n",
        }
    )
    done = lab.doit("build_optimized")
    assert done.returncode != 0
    assert "dependency cycle: one → two → one" in done.stderr or "dependency cycle: two → one → two" in done.stderr
    assert "Traceback" not in done.stderr


INVALID = {
    "services: {app: {build: {context: app, additional_contexts: {base: 'service:bsae'}}}}\n": "bsae",
    "services: [\n": "Compose refuses it",
    "services: {app: {build: {contxt: app}}}\n": "contxt",
    "services: {app: {build: {context: '${NEEDED:?set it first}'}}}\n": "set it first",
    "services: {app: {build: {args: {A: '${ONE:?}', B: '${TWO:?as in docs}', C: '${THREE?}'}}}}\n": (
        "these variables are required and have no value: ONE, THREE, TWO (as in docs) (set them in "
    ),
}


@needs_docker_command
@pytest.mark.parametrize("text", INVALID)
@pytest.mark.parametrize("command", ["plan", "build_optimized"])
def test_an_invalid_compose_file(offline: Lab, text: str, command: str) -> None:
    offline.write({"compose.yml": text})
    done = offline.doit(command)
    assert done.returncode != 0
    sentence = only_sentence(done.stderr)
    assert INVALID[text] in sentence
    assert "compose.yml" in sentence


@needs_docker_command
@pytest.mark.parametrize("text", INVALID)
def test_the_tasks_are_listed_whatever_the_compose_file_says(offline: Lab, text: str) -> None:
    offline.write({"compose.yml": text})
    assert offline.doit("list").returncode == 0


def test_a_compose_file_that_is_not_there(offline: Lab) -> None:
    done = offline.doit("plan", COMPOSE_FILE=str(offline.folder / "nowhere.yml"))
    assert done.returncode != 0
    assert "nowhere.yml: there is no such Compose file" in only_sentence(done.stderr)


def test_a_setting_of_the_wrong_type(offline: Lab) -> None:
    done = offline.doit("list", BUILD_JOBS="many")
    assert done.returncode != 0
    assert "BUILD_JOBS must be a whole number from 1 to 9999, not 'many'" in only_sentence(done.stderr)


def test_an_unknown_image_and_an_unknown_option(offline: Lab, engine: None) -> None:
    online = {"DOCKER_HOST": os.environ.get("DOCKER_HOST", "")}
    assert "no image is called 'ap' (did you mean 'app'?)" in offline.doit("plan", "ap", **online).stderr
    assert "`plan` has no option --jsn (did you mean --json?)" in offline.doit("plan", "app", "--jsn", **online).stderr


@pytest.mark.parametrize(
    ("answer", "sentence"), [("", "docker buildx is not installed"), (OLD, "docker buildx is older than 0.13")]
)
def test_buildx_is_missing_or_old(lab: Lab, answer: str, sentence: str) -> None:
    lab.write({**GOOD, "config/cli-plugins/docker-buildx": f"#!/bin/sh\n{answer}\nexit 1\n"})
    (lab.folder / "config/cli-plugins/docker-buildx").chmod(0o755)
    done = lab.doit("build_optimized", DOCKER_CONFIG=str(lab.folder / "config"))
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_docker_is_missing(offline: Lab) -> None:
    done = offline.doit("plan", PATH=str(offline.folder))
    assert done.returncode != 0
    assert "the docker command is not installed" in only_sentence(done.stderr)
