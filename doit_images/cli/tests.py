"""Which tests do the images have? One doit task for each test that a Dockerfile or the Compose file declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doit_images.ci.testing.declared import ImageTest, declared
from doit_images.cli.action import QUIET, Task, act, option
from doit_images.cli.build import declared_images
from doit_images.cli.process import current, names
from doit_images.core.base.errors import UserError
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run

AGAIN = option("again", False, "also what passed before")
RUNS = option("runs", "1", "so many times; each has to pass")


class Passed:
    """A doit ``uptodate`` object: whether a test passed before on what it would see now. Then nothing is built for it
    either: the images that it needs are its ``setup``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, task: object, values: Mapping[str, object]) -> bool:
        """Ask the plan, and bring back what a test that passed left. An error counts as not passed: the action then
        says it."""
        from doit_images.ci.testing.act import passed_before
        from doit_images.ci.testing.planned import PlannedState, plan

        if not first_time(task):
            return False
        try:
            planned = plan(current(), [self._name])[self._name]
            if planned.state != PlannedState.PASSED:
                return False
            passed_before(current(), planned)
        except UserError:
            return False
        return True


def first_time(task: Any) -> bool:
    """Whether a test is asked for only if it did not pass before."""
    options = task.options or {}
    return not options.get("again") and options.get("runs", "1") == "1"


def task_test_image() -> Iterator[Task]:
    """Run the tests of images that did not pass yet on what they see now"""
    doc = "run the tests of images that did not pass yet on what they see now; of one: [--again] [--runs N]"
    yield {"name": None, "doc": doc, "uptodate": [True], "meta": {"quiet": True}}
    inputs, failing = declared_images()
    if failing:
        yield failing
    if not inputs:
        return
    tests, images = declared(current().project, inputs), current().project.images
    if not tests:
        yield {**QUIET, "name": "_none", "actions": [(act, [_none])]}
    for name, test in tests.items():
        yield {
            **QUIET,
            "name": name,
            "doc": f"run {_what(test)}, if it did not pass yet on what it sees now",
            "actions": [(act, ["doit_images.ci.testing.act:run_test", name])],
            "params": [AGAIN, RUNS],
            "setup": [names()(f"build:{one}") for one in _runs_on(test, inputs) if one in images],
            "uptodate": [Passed(name)],
        }


def _none(run: Run) -> None:
    print("no image has a test: a stage `test` of its Dockerfile is one, or what the Compose file lists in `x-test`")


def _runs_on(test: ImageTest, inputs: Mapping[str, ImageInputs]) -> list[str]:
    """The images that have to be here for a test: of a stage also those that it is built on, also where its image is
    pulled, which needs none of them."""
    below = inputs[test.service].needs if test.target and test.service in inputs else ()
    return list(dict.fromkeys((test.service, *test.services, *below)))


def _what(test: ImageTest) -> str:
    return f"the stage {test.target} of {test.service}" if test.target else f"its command in {test.service}"
