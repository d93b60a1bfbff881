"""What buildx reads of its environment: each variable is kept from builds, counted, or has a reason beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.compose.image import Image
from doit_images.core.engine import plugins
from doit_images.core.inputs import environment
from tests.conftest import ROOT, Lab, docker, needs_docker_command

Settings = Callable[[Image, dict[str, str]], dict[str, dict[str, str]]]
PLAIN = Image(name="app", ref="app", context="/")
ATTESTED = replace(PLAIN, provenance="true")
# All that buildx 0.13 to 0.36 reads of itself (`git grep -E 'Getenv|LookupEnv'`, what it is linked with included).
CLEARED = ["BUILDX_EXPERIMENTAL", "BUILDX_GIT_LABELS", "BUILDX_NO_DEFAULT_LOAD"]
ATTESTING = ["BUILDX_GIT_CHECK_DIRTY", "BUILDX_GIT_INFO", "BUILDX_NO_DEFAULT_OCI_ARTIFACT"]
COUNTED = ["BUILDX_DEFAULT_POLICY", "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"]
HARMLESS = [
    "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP", "BUILDX_BAKE_ENTITLEMENTS_FS", "BUILDX_BAKE_FILE",
    "BUILDX_BAKE_FILE_RELATIVE_PATHS", "BUILDX_BAKE_GIT_AUTH_HEADER", "BUILDX_BAKE_GIT_AUTH_TOKEN",
    "BUILDX_BAKE_GIT_SSH", "BUILDX_BAKE_PATH_SEPARATOR", "BUILDX_BUILDER", "BUILDX_CONFIG", "BUILDX_CPU_PROFILE",
    "BUILDX_DAP_USER_AGENT", "BUILDX_MEM_PROFILE", "BUILDX_METADATA_PROVENANCE", "BUILDX_METADATA_WARNINGS",
    "BUILDX_NO_DEFAULT_ATTESTATIONS", "BUILDX_SEND_GIT_QUERY_AS_INPUT", "BUILDKIT_COLORS",
    "BUILDKIT_DEBUG_PANIC_ON_ERROR", "BUILDKIT_EXPORTEDPRODUCT", "BUILDKIT_HOST", "BUILDKIT_NO_CLIENT_TOKEN",
    "BUILDKIT_PROGRESS", "BUILDKIT_SESSION_ID", "BUILDKIT_TTY_LOG_LINES", "BUILDKIT_WORKERS",
]  # fmt: skip
ARGUMENTS = [
    "BUILDKIT_BUILD_NAME", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_BUILDINFO_ATTRS", "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM", "BUILDKIT_SYNTAX",
]  # fmt: skip
# What they read of others, and what says where they count.
OTHERS = [
    "ACTIONS_RUNTIME_TOKEN", "AWS_*", "COMPOSE_*", "DOCKER_API_VERSION", "DOCKER_AUTH_CONFIG", "DOCKER_BUILDKIT",
    "DOCKER_CERT_PATH", "DOCKER_CLI_*", "DOCKER_CONFIG", "DOCKER_CONTENT_TRUST", "DOCKER_CONTEXT",
    "DOCKER_CUSTOM_HEADERS", "DOCKER_DEFAULT_PLATFORM", "DOCKER_HOST", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "GITHUB_*",
    "HTTP_PROXY", "KUBECONFIG", "NO_COLOR", "OTEL_*", "SOURCE_DATE_EPOCH", "SSH_AUTH_SOCK", "SUDO_UID",
]  # fmt: skip


def with_buildx(program: str, folder: Path) -> dict[str, str]:
    """The environment of a docker command that has this program for its plugin."""
    (folder / "cli-plugins").mkdir(exist_ok=True)
    (folder / "cli-plugins" / "docker-buildx").write_text(program)
    return {"DOCKER_CONFIG": str(folder)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What counts of an environment, of a buildx that may know every variable."""
    buildx = with_buildx("#!/bin/sh", tmp_path)
    return lambda image, environ: environment.counted(image, environment.digests({**buildx, **environ}, tmp_path))


@pytest.mark.parametrize("name", CLEARED)
def test_a_build_does_not_get_what_is_not_to_change_it(name: str, settings: Settings) -> None:
    assert environment.of_build({name: "1", "A": "b"}, ROOT) == {"A": "b", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    assert settings(ATTESTED, {name: "1"}) == {}


@pytest.mark.parametrize("name", [*ATTESTING, *COUNTED])
def test_what_may_change_an_image_counts_with_its_value(name: str, settings: Settings, tmp_path: Path) -> None:
    for value in ("1", "2"):
        (tmp_path / value).write_text(f"rules {value}")
    counted = [settings(ATTESTED, {name: value} if value else {}) for value in ("", "1", "2")]
    assert counted[0] == {} != counted[1] != counted[2] != {}
    assert environment.of_build({name: "/1"}, tmp_path)[name] == "/1"
    assert bool(settings(PLAIN, {name: "1"})) is (name in COUNTED)


def test_rules_for_sources_count_with_what_they_say(settings: Settings, tmp_path: Path) -> None:
    name = environment.SOURCE_POLICY
    counted = []
    for rules in ("{}", '{"rules": []}'):
        (tmp_path / "rules.json").write_text(rules)
        counted += [settings(PLAIN, {name: path}) for path in ("rules.json", f"{tmp_path}/rules.json")]
    assert counted[0] == counted[1] != counted[2] == counted[3]
    assert environment.of_build({name: "rules.json"}, tmp_path)[name] == f"{tmp_path}/rules.json"
    assert settings(PLAIN, {name: "none"}) not in (counted[0], {})


@pytest.mark.parametrize("name", [*HARMLESS, *ARGUMENTS, "OTHER"])
def test_what_no_image_depends_on_does_not_count(name: str, settings: Settings) -> None:
    assert settings(ATTESTED, {name: "1"}) == {}


@pytest.mark.parametrize(
    ("program", "counts"), [("\x7fELF\0BUILDX_NEW", True), ("\x7fELF\0BUILDX_OLD", False), ("#!/bin/sh", True)]
)
def test_a_variable_that_is_not_known_here_counts_where_buildx_may_know_it(
    program: str, counts: bool, tmp_path: Path
) -> None:
    environ = {"BUILDX_NEW": "1", **with_buildx(program, tmp_path)}
    assert bool(environment.digests(environ, tmp_path)) is counts


@needs_docker_command
def test_every_variable_that_the_installed_buildx_knows_is_judged() -> None:
    program = Path(plugins.identity("docker-buildx").rsplit(" ", 2)[0]).read_bytes()
    found = re.findall(rb"(?:EXPERIMENTAL_BUILDKIT|BUILDX|BUILDKIT)_(?:(?!BUILDX_|BUILDKIT_)[A-Z0-9_])+", program)
    judged = (*CLEARED, *ATTESTING, *COUNTED, *HARMLESS, *ARGUMENTS)
    assert found
    assert [name for name in found if not name.decode().startswith(judged)] == [], "what follows there may touch it"


def test_each_has_a_reason() -> None:
    told = (ROOT / "docs" / "staleness.md").read_text().partition("## What buildx reads of its environment")[2]
    every = [*CLEARED, *ATTESTING, *COUNTED, *HARMLESS, *ARGUMENTS, *OTHERS]
    assert [name for name in every if f"`{name}`" not in told] == []


@pytest.fixture
def project(lab: Lab) -> Lab:
    """An image in a git repository with one commit, and rules for its sources that refuse none."""
    lab.write({"compose.yml": "services: {app: {image: PREFIX/app, build: .}}\n", "rules.json": '{"rules": []}'})
    lab.write({"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "PREFIX"})
    me = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "--quiet"], ["add", "f"], [*me, "commit", "--quiet", "--message=x"]):
        subprocess.run(["git", *words], cwd=lab.folder, check=True)
    return lab


def test_a_build_does_what_its_declaration_says_whatever_the_environment(project: Lab) -> None:
    """Without an image in the engine the run would fail; the commit in a label makes another image of each commit."""
    project.environ = dict.fromkeys(CLEARED, "1")
    assert project.build() == {"app": "built"}
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", project.ref("app")).stdout)
    assert [name for name in labels if name.startswith(("org.", "com."))] == []


def test_rules_that_refuse_a_source_refuse_the_build(project: Lab) -> None:
    project.environ = {environment.SOURCE_POLICY: "rules.json"}
    assert project.build() == {"app": "built"}
    refuse = {"action": "DENY", "selector": {"identifier": "local://context"}}
    project.write({"rules.json": json.dumps({"rules": [refuse]})})
    assert project.plan()["app"]["reasons"] == [f"environment `{environment.SOURCE_POLICY}` changed"]
    done = project.doit("build_optimized")
    assert "denied by policy" in done.stderr
    assert project.actions(**{environment.SOURCE_POLICY: os.devnull})["app"] == "build"
