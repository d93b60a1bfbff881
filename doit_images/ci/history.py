"""What does the history tell of tests?

A test is a row like an image's, with one step: executed, or taken from a result of before, as a step from the cache is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.history.store import Build, History, Status

TESTED = "test"
"""The action of a row that is of a test."""


class Tests(NamedTuple):
    """How many tests were run, how many of these failed, how many had passed before, and the seconds that saved."""

    run: int
    failed: int
    passed_before: int
    saved: float

    def __bool__(self) -> bool:
        return bool(self.run or self.passed_before)


def expected_seconds(history: History, refs: Iterable[str]) -> dict[str, float]:
    """How long the tests of these references will take, as far as the history knows; one that cannot be read forecasts
    nothing, and fails nothing."""
    try:
        return history.expected_seconds(refs, TESTED)
    except UserError:
        return {}


def is_test(build: Build) -> bool:
    """Whether a row is of a test."""
    return build.action == TESTED


def tests(builds: Iterable[Build]) -> Tests:
    """What the tests among these rows came to."""
    rows = [build for build in builds if is_test(build)]
    known = [build for build in rows if any(step.cached for step in build.steps)]
    failed = sum(build.status == Status.FAILED for build in rows)
    saved = sum(step.seconds for build in known for step in build.steps)
    return Tests(len(rows) - len(known), failed, len(known), saved)
