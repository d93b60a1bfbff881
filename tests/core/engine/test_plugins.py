"""The docker command is the judge of which plugin it would run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.engine import plugins
from tests.conftest import needs_docker_command

pytestmark = needs_docker_command

BUILD = ["docker", "buildx", "build", "--tag", "a", "."]
Configure = Callable[[dict[str, object]], dict[str, str]]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """The environment of a docker command with this configuration."""

    def write(content: dict[str, object]) -> dict[str, str]:
        (tmp_path / "config.json").write_text(json.dumps(content))
        return {**os.environ, "DOCKER_CONFIG": str(tmp_path)}

    return write


def chosen_by_docker(environ: dict[str, str]) -> str:
    argv = ["docker", "info", "--format", "{{range .ClientInfo.Plugins}}{{.Name}} {{.Path}}\n{{end}}"]
    said = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in said.splitlines() if line)["buildx"]


def another(folder: Path) -> Path:
    """A second plugin of that name, which is the same program."""
    folder.mkdir(parents=True)
    (folder / "docker-buildx").symlink_to(chosen_by_docker(dict(os.environ)))
    return folder / "docker-buildx"


def test_the_installed_one() -> None:
    environ = dict(os.environ)
    assert plugins.direct(BUILD, environ) == [chosen_by_docker(environ), *BUILD[2:]]
    assert plugins.identity("docker-buildx").startswith(chosen_by_docker(environ))


def test_the_users_own_comes_first(configure: Configure, tmp_path: Path) -> None:
    own = another(tmp_path / "cli-plugins")
    environ = configure({})
    assert plugins.direct(BUILD, environ)[0] == str(own) == chosen_by_docker(environ)


def test_a_folder_of_the_configuration_comes_before_that(configure: Configure, tmp_path: Path) -> None:
    another(tmp_path / "cli-plugins")
    further = another(tmp_path / "brew")
    environ = configure({"cliPluginsExtraDirs": [str(tmp_path / "none"), str(further.parent)]})
    assert plugins.direct(BUILD, environ)[0] == str(further) == chosen_by_docker(environ)


@pytest.mark.parametrize("content", ["{", "[]", '{"cliPluginsExtraDirs": "x"}'])
def test_a_configuration_that_cannot_be_read_names_no_folder(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    environ = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    assert plugins.direct(BUILD, environ)[0] == chosen_by_docker(dict(os.environ))


def test_where_none_is_found_the_docker_command_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plugins, "_SYSTEM", ())
    environ = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    assert plugins.direct(BUILD, environ) == BUILD
    assert plugins.identity("docker-buildx", environ) == ""


def test_over_a_network_the_docker_command_decides_about_tls() -> None:
    environ = {**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:2376", "DOCKER_TLS_VERIFY": "1"}
    assert plugins.direct(BUILD, environ) == BUILD


def test_the_plugin_alone_says_what_the_docker_command_says() -> None:
    argv = ["docker", "buildx", "build", "--file", "/not/there", "/tmp"]
    said = [
        subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        for command in (argv, plugins.direct(argv, os.environ))
    ]
    assert said[0].returncode == said[1].returncode != 0
    assert said[0].stderr.splitlines()[-1] == said[1].stderr.splitlines()[-1]


def test_a_context_that_is_not_there_is_not_the_default_one(configure: Configure) -> None:
    with pytest.raises(UserError, match="there is no Docker context 'not-there'"):
        plugins.direct(BUILD, configure({"currentContext": "not-there"}))
