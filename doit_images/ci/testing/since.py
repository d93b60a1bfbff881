"""Which tests does a commit make due, where all passed at another one? From git alone.

What a test sees is told as an image, so the plan of the commit tells of it too. Of services that a test needs, and of
those that they depend on, their images count, what Compose says of them, and what the commit has of the files that are
mounted into them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from doit_images.ci import around
from doit_images.ci.commits import There
from doit_images.ci.results.result import Result
from doit_images.ci.testing.declared import ImageTest, declared
from doit_images.ci.testing.planned import NEVER, PlannedState
from doit_images.ci.testing.variants import Around, images_around, in_words, name_of, with_tests
from doit_images.core.base.references import familiar
from doit_images.core.compose.project import Project
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action, Decision


class Due(NamedTuple):
    """A test of a commit: whether it has to be run, why, and the reference by which the history knows it. ``problem``
    is why it cannot be. What it would run on is not there, so of a result nothing is known."""

    test: ImageTest
    stale: bool
    reasons: tuple[str, ...]
    ref: str
    problem: str = ""
    fingerprint: str = ""
    result: Result | None = None

    @property
    def state(self) -> PlannedState:
        """What would be done."""
        return PlannedState.BROKEN if self.problem else PlannedState.TEST if self.stale else PlannedState.PASSED


def told(project: Project, images: Mapping[str, ImageInputs], there: There) -> Project:
    """A project of a commit with what its tests see as further images."""
    tests = declared(project, images)
    config = there.config() if any(test.services for test in tests.values()) else {}
    several = {name: _around(test, project, config, there) for name, test in tests.items() if test.services}
    return with_tests(project, tests, several)


def _around(test: ImageTest, project: Project, config: Mapping[str, Any], there: There) -> Around:
    names = around.with_needs(test.services, config["services"])
    refs = {familiar(config["services"][name].get("image") or "") for name in names}
    images = (
        name for name, image in project.images.items() if name in names or refs.intersection(map(familiar, image.names))
    )
    return Around(
        tuple(images),
        around.declared(config, names, project.directory),
        {
            os.path.relpath(path, project.directory): there.digest_of(str(path))
            for path in around.mounted(config, names)
        },
    )


def split(project: Project, decided: Mapping[str, Decision]) -> tuple[dict[str, Decision], dict[str, Due]]:
    """The decisions about images and about tests, of a plan of both."""
    images = {name: decision for name, decision in decided.items() if name in project.images}
    tests = declared(project, {name: decision.inputs for name, decision in images.items()})
    return images, {name: _due(test, decided) for name, test in tests.items()}


def _due(test: ImageTest, decided: Mapping[str, Decision]) -> Due:
    decision = decided.get(name_of(test))
    if decision is None or decision.action == Action.BROKEN:
        problem = test.problem or "; ".join(decision.reasons if decision else ())
        return Due(test, stale=True, reasons=(problem,), ref="", problem=problem)
    ref = f"{decision.inputs.image.ref}#{test.service}"
    if not test.cache:
        return Due(test, stale=True, reasons=(NEVER,), ref=ref)
    several = dict.fromkeys((test.service, *images_around(decision.inputs.image)))
    # Another name alone is no other image.
    due = [name for name in several if name in decided and decided[name].action in (Action.BUILD, Action.BROKEN)]
    images = tuple(f"its image `{name}` is another" for name in due)
    own = tuple(map(in_words, decision.reasons)) if decision.builds else ()
    return Due(test, decision.builds or bool(due), images or own, ref)
