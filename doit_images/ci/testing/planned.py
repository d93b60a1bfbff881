"""Which tests would be run, and which passed before on just what they would see now?

contents of images, inputs, declaration, services ──> fingerprint ──> passed here, or elsewhere? ──> nothing
                                                                  ──> else                       ──> run

The inputs of an image do not determine its bytes: a build without cache may give others. So an image counts by its
content. Before an image is built, it is not known whether tests passed on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from doit_images.ci.results import known, shared
from doit_images.ci.results.result import Result, fingerprint
from doit_images.ci.testing.declared import NONE, ImageTest, declared
from doit_images.ci.testing.variants import in_words, name_of, with_tests
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import path_of
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.planner import Planner
from doit_images.core.planning import record
from doit_images.core.planning.plan import own_only
from doit_images.core.planning.reasons import differences
from doit_images.core.run import Run

if TYPE_CHECKING:
    from doit_images.ci.seen import Services

NEVER = "it says `cache: never`"
DUE = "its image is built in every run, so it is never known to have passed on it"
UNKNOWN = "what it would run on is not known yet"


class PlannedState(StrEnum):
    """What would be done about a test."""

    PASSED = "passed"
    """Nothing: it passed on just this before."""
    TEST = "test"
    """It is run."""
    BROKEN = "broken"
    """It cannot be run as declared."""


class Planned(NamedTuple):
    """A test, what it sees as an image, the fingerprint of it all ("" where that is not known), how it passed on it
    before, if it did, why it is run, or cannot be, and the content of each image that it runs on ("" for not known)."""

    test: ImageTest
    inputs: ImageInputs | None
    fingerprint: str = ""
    result: Result | None = None
    reasons: tuple[str, ...] = ()
    problem: str = ""
    images: Mapping[str, str] = {}

    @property
    def state(self) -> PlannedState:
        """What would be done."""
        return PlannedState.BROKEN if self.problem else PlannedState.PASSED if self.result else PlannedState.TEST

    @property
    def name(self) -> str:
        """What history and reports call it."""
        return name_of(self.test)

    @property
    def ref(self) -> str:
        """By which the history tells it from other projects' tests."""
        return f"{self.inputs.image.ref if self.inputs else ''}#{self.test.service}"


def tests_of(project: Project, planner: Planner) -> dict[str, ImageTest]:
    """All tests of the project."""
    return declared(project, planner.declared())


def plan(run: Run, names: Iterable[str], *, again: bool = False, ask: bool = True) -> dict[str, Planned]:
    """What would be done about these tests; ``again``: with folders walked once more. ``ask`` the shared registry."""
    every = tests_of(run.project, run.planner)
    tests = {name: every[name] for name in names}
    resolver = _resolver(run, tests, again=again)
    planned = {name: seen_by(run, test, resolver) for name, test in tests.items()}
    resolver.keep()
    images = run.project.images
    seen = {one.fingerprint: images[one.test.service].ref for one in planned.values() if one.fingerprint}
    wanted = {fingerprint: path_of(ref) for fingerprint, ref in seen.items()}
    results = known.look(shared.of(run), wanted, ask=ask)
    return {name: _told(run.folder, one, results.get(one.fingerprint)) for name, one in planned.items()}


def _resolver(run: Run, tests: Mapping[str, ImageTest], *, again: bool) -> InputResolver:
    decisions = run.planner.decisions()
    index = next((decision.inputs.index for decision in decisions.values() if decision.inputs.index), None)
    project = with_tests(run.project, tests)
    return run.resolver.of(project) if again or index is None else run.resolver.of(project, lambda: index)


def seen_by(run: Run, test: ImageTest, resolver: InputResolver) -> Planned:
    """A test with what it sees, of a project with tests that this resolver reads, as it is known before it ran."""
    if test.problem:
        return Planned(test, None, problem=test.problem)
    chain = run.planner.made_of(resolver, run.local_images.snapshot().platform, name_of(test))
    inputs = chain[name_of(test)]
    image = chain.get(test.service) or run.planner.decide(test.service).inputs
    problem = inputs.problem or image.problem
    if not problem and test.target and test.network == NONE:
        from doit_images.ci.testing import isolation  # few say so, and it parses the Dockerfile once more

        problem = isolation.problem(inputs, image)
    if problem:
        return Planned(test, inputs, problem=problem)
    several = {**chain, test.service: image}.values()
    why = NEVER if not test.cache else DUE if any(map(own_only, several)) else ""
    if why:
        return Planned(test, inputs, reasons=(why,))
    contents = {name: run.planner.content_after(run.planner.decide(name)) for name in (test.service, *inputs.needs)}
    try:
        services = _services(run, test)
    except UserError as error:
        return Planned(test, inputs, problem=str(error))
    contents |= services.images if services else {}
    planned = Planned(test, inputs, images=contents)
    if to_come := [f"`{name}`" for name, content in contents.items() if not content]:
        return planned._replace(reasons=(f"it depends on the content of {', '.join(to_come)}, which is not known yet",))
    if not all(all(each.bases.values()) for each in several):
        return planned._replace(reasons=(UNKNOWN,))
    seen = {"test": inputs.fingerprint, "images": contents, "declared": test.declaration(), "services": services}
    return planned._replace(fingerprint=fingerprint(seen, run.local_images.snapshot().platform))


def _services(run: Run, test: ImageTest) -> Services | None:
    if not test.services:
        return None
    from doit_images.ci import seen as stack_seen  # most tests need no services

    return stack_seen.of_stack(
        run.local_images, run.planner, Compose(run.files, run.project.name, run.environ), test.services
    )


def _told(folder: Path, planned: Planned, result: Result | None) -> Planned:
    if result or planned.problem or planned.reasons or planned.inputs is None:
        return planned._replace(result=result)
    return planned._replace(reasons=tuple(_why(folder, planned, planned.inputs)))


def _why(folder: Path, planned: Planned, inputs: ImageInputs) -> list[str]:
    last = record.read(records_folder(folder), planned.test.name)
    if last is None:
        return ["it never passed here"]
    if last.fingerprint == planned.fingerprint:
        return ["that it passed on this is not known any more"]
    changed = [*map(in_words, differences(last.build_inputs, inputs.build_inputs()))]
    moved = (f"`{name}`" for name, content in planned.images.items() if last.parents.get(name) != content)
    changed += [f"the content of its image {name} is another" for name in moved]
    return changed or ["what it runs with is not what it passed with"]


def records_folder(folder: Path) -> Path:
    """Where the records of tests lie: those in the project's folder are of images."""
    return folder / "tests"
