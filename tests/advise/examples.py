"""What a rule proposes for a Dockerfile, as the tests of the rules ask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from doit_images.advise.patch import Patch
from doit_images.advise.rules import Rule
from doit_images.advise.steps import steps_of
from doit_images.advise.whole import Whole
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project, load
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver


def resolved(folder: Path, text: str, files: Mapping[str, str]) -> ImageInputs:
    """The inputs of an image with this Dockerfile and context."""
    context = folder / "app"
    for name, content in files.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(content)
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_bytes(text.encode())
    (context / ".dockerignore").write_text("Dockerfile\n")
    image = Image(name="app", ref="x/app", context=str(context), dockerfile=str(context / "Dockerfile"))
    project = Project("p", folder, (folder / "compose.yml",), {"app": image})
    inputs = InputResolver(project, folder / ".doit-images").resolve("linux/amd64", lambda ref, some: None)["app"]
    assert not inputs.problem
    return inputs


def whole(folder: Path, files: Mapping[str, str]) -> Whole:
    """A project of these files, one of which is its compose.yml."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    project = load((folder / "compose.yml",), {"PATH": os.environ["PATH"], "HOME": str(folder)})
    resolver = InputResolver(project, folder / ".doit-images")
    return Whole(project, resolver.resolve("linux/amd64", lambda ref, some: None), {})


def proposed(folder: Path, rule: Rule, text: str, files: Mapping[str, str]) -> list[Patch]:
    """The patches that a rule has for this Dockerfile."""
    inputs = resolved(folder, text, files)
    return list(rule.patches(inputs.dockerfile_text, steps_of(inputs)))


def better(folder: Path, rule: Rule, text: str, files: Mapping[str, str]) -> str:
    """The Dockerfile with all patches of a rule, one on top of the other, until it has none."""
    for _ in range(20):
        found = proposed(folder, rule, text, files)
        if not found:
            return text
        assert found[0].text != text
        text = found[0].text
    raise AssertionError("this rule never ends")
