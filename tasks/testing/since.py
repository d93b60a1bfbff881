"""Which tests does a commit make due, where all passed at another one? From git alone.

What a test sees is told as an image, so the plan of the commit tells of it too. Of services that a test needs, their
images and the Compose files count; what is mounted into them is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tasks.base import files
from tasks.compose.project import Project
from tasks.inputs.image_inputs import ImageInputs
from tasks.planning.action import Action
from tasks.planning.plan import Decision
from tasks.testing.declared import ImageTest, declared
from tasks.testing.planned import NEVER
from tasks.testing.variants import name_of, with_tests


class Due(NamedTuple):
    """A test of a commit: whether it has to be run, why, and the reference by which the history knows it. ``problem``
    is why it cannot be."""

    test: ImageTest
    stale: bool
    reasons: tuple[str, ...]
    ref: str
    problem: str = ""


def told(project: Project, images: Mapping[str, ImageInputs]) -> Project:
    """A project of a commit with what its tests see as further images."""
    tests = declared(project, images)
    texts = "".join(files.text(file) for file in project.files) if any(test.services for test in tests.values()) else ""
    return with_tests(project, tests, texts)


def split(project: Project, decided: Mapping[str, Decision]) -> tuple[dict[str, Decision], dict[str, Due]]:
    """The decisions about images and about tests, of a plan of both."""
    images = {name: decision for name, decision in decided.items() if name in project.images}
    tests = declared(project, {name: decision.inputs for name, decision in images.items()})
    return images, {name: _due(test, decided) for name, test in tests.items()}


def _due(test: ImageTest, decided: Mapping[str, Decision]) -> Due:
    decision = decided.get(name_of(test))
    if decision is None or decision.action == Action.BROKEN:
        problem = test.problem or "; ".join(decision.reasons if decision else ())
        return Due(test, True, (problem,), "", problem)
    ref = f"{decision.inputs.image.ref}#{test.service}"
    if not test.cache:
        return Due(test, True, (NEVER,), ref)
    due = [name for name in (test.service, *test.services) if name in decided and decided[name].stale]
    images = tuple(f"its image `{name}` is another" for name in due)
    return Due(test, decision.builds or bool(due), images or (decision.reasons if decision.builds else ()), ref)
