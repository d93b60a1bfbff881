"""How long does a step take? As the last builds say that executed it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from doit_images.advise.steps import Step
from doit_images.core.history.store import Build, History, Status, StepOutcome, StepRecord

_BUILDS = 50  # in which a step's seconds are looked for


def done_builds(history: History, image: str) -> list[Build]:
    """The last builds of an image that came to their end."""
    return [one for one in history.recent(image, _BUILDS) if one.status == Status.DONE]


def seconds_of(step: Step, builds: Sequence[Build]) -> float | None:
    """The median of the seconds that a step took in these builds of its image; None where none of them executed a step
    with its number in a stage of its name and length."""
    took = [
        record.seconds
        for build in builds
        for record in build.steps
        if record.outcome == StepOutcome.EXECUTED and _is(record, step)
    ]
    return median(took) if took else None


def _is(record: StepRecord, step: Step) -> bool:
    stages = (step.stage, f"stage-{step.stage}", "")  # what BuildKit calls one that has no name, and the only one
    word = record.name.rpartition("] ")[2].split(" ", 1)[0].upper()
    return (record.number, record.total, word) == (step.number, step.total, step.instruction) and record.stage in stages
