"""Compose's answer is kept, and never believed after it would be another: Compose is the judge."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from doit_images.core.compose import project
from doit_images.core.compose.stack import Compose
from tests.conftest import needs_docker_command

pytestmark = needs_docker_command

ONE, TWO = (f"services: {{like: {{build: {{context: ., target: {name}}}}}}}\n" for name in ("one", "two"))
PLAIN = "services: {app: {build: .}}\n"
IN_INCLUDED = "services: {inc: {build: {context: ., target: '${T}'}}}\n"

# Files, the first (and `override.yml`) being Compose's own; what is then written, or set in the environment.
CASES = {
    "a service that overrides": (
        {
            "compose.yml": PLAIN,
            "override.yml": "services: {app: !override {extends: {file: base.yml, service: like}}}\n",
            "base.yml": ONE,
        },
        {"base.yml": TWO},
    ),
    "services that override": (
        {
            "compose.yml": PLAIN,
            "override.yml": "services: !override {n: {extends: !override {file: !override base.yml, service: like}}}\n",
            "base.yml": ONE,
        },
        {"base.yml": TWO},
    ),
    "an include that overrides": (
        {"compose.yml": f"include: !override [{{path: !override [inc.yml]}}]\n{PLAIN}", "inc.yml": ONE},
        {"inc.yml": TWO},
    ),
    "a tag on what is merged": (
        {
            "compose.yml": """
                x-like: &like !override {extends: {file: base.yml, service: like}}
                services: {app: {<<: *like, restart: always}}
                """,
            "base.yml": ONE,
        },
        {"base.yml": TWO},
    ),
    "extends in several files": (
        {
            "compose.yml": "services: {app: {extends: {file: a/a.yml, service: a}}}\n",
            "a/a.yml": "services: {a: {extends: {file: b/b.yml, service: b}}}\n",
            "a/b/b.yml": "services: {b: {extends: {file: ../../c.yml, service: like}}}\n",
            "c.yml": ONE,
        },
        {"c.yml": TWO},
    ),
    "an include with a folder and env files": (
        {
            "compose.yml": f"""
                include: [{{path: more/inc.yml, project_directory: of, env_file: [of/1.env, of/2.env]}}]
                {PLAIN}
                """,
            "more/inc.yml": IN_INCLUDED,
            "of/1.env": "T=one",
            "of/2.env": "",
        },
        {"of/2.env": "T=two"},
    ),
    "an env file that is one day there": (
        {"compose.yml": "include: [more/inc.yml]\n", "more/inc.yml": IN_INCLUDED},
        {"more/.env": "T=two"},
    ),
    "a value in a value": (
        {"compose.yml": "services: {app: {build: {context: ., target: '${A:-${B-x${C}}}'}}}\n"},
        {"$C": "two"},
    ),
    "an argument's name in a variable": (
        {"compose.yml": "services: {app: {build: {context: ., args: ['${WHICH}']}}}\n", "$WHICH": "FOO"},
        {"$FOO": "2"},
    ),
    "an argument's name in two": (
        {"compose.yml": "services: {app: {build: {context: ., args: !override ['${A}_$B']}}}\n", ".env": "A=F\nB=O"},
        {"$F_O": "2"},
    ),
    "an argument that is called as no variable of a shell": (
        {"compose.yml": "services: {app: {build: {context: ., args: [my-arg.x]}}}\n"},
        {"$my-arg.x": "2"},
    ),
    "several documents": (
        {
            "compose.yml": f"{PLAIN}---\nservices: {{app: {{extends: {{file: base.yml, service: like}}}}}}\n",
            "base.yml": ONE,
        },
        {"base.yml": TWO},
    ),
}


def write(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Write the files; what is to be set in the environment."""
    for name, text in files.items():
        if not name.startswith("$"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))
    return {name[1:]: text for name, text in files.items() if name.startswith("$")}


@pytest.mark.parametrize(("files", "edit"), CASES.values(), ids=CASES)
def test_what_the_answer_depends_on_counts(tmp_path: Path, files: dict[str, str], edit: dict[str, str]) -> None:
    environ = {**os.environ, **write(tmp_path, files)}
    named = tuple(tmp_path / name for name in ("compose.yml", "override.yml") if name in files)
    before = project.load(named, environ)
    environ |= write(tmp_path, edit)
    judge = project.resolved(Compose(named, "", environ).config(), named, environ)
    assert judge != before, "the edit is none that counts"
    assert project.load(named, environ) == judge


def test_a_link_on_the_way_is_followed_by_its_text_too(tmp_path: Path) -> None:
    """Compose takes `link/../base.yml` for `base.yml`, the system for a file beside what the link leads to."""
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    (tmp_path / "far/base.yml").write_text(PLAIN)
    for name in ("one", "two"):
        (tmp_path / "base.yml").write_text(ONE.replace("one", name))
        (tmp_path / "compose.yml").write_text("services: {app: {extends: {file: link/../base.yml, service: like}}}\n")
        assert project.load((tmp_path / "compose.yml",), os.environ).images["app"].target == name
