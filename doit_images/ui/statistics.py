"""What do the stored builds tell?

Pure functions from builds, as ``history.store`` keeps them: who waited for whom in a run and which chain made it as
long as it was, how runs changed over time, what rebuilds were caused by, which steps came from the cache and what that
saved, what was built again although it had been built.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from doit_images.ci.history import is_test
from doit_images.core.history.store import Build, Status, StepKey, StepOutcome, StepRecord, keyed, median
from doit_images.core.planning.forecast import remaining_path
from doit_images.core.planning.plan import Action
from doit_images.stack.layers import Layer, chained

SLACK = 0.5
"""Seconds between two builds that count as one following directly on the other."""


@dataclass(frozen=True)
class Lane:
    """One image in the timeline of a run; times are seconds from the run's start.

    It waited for its parents until ``ready``, for a worker until ``began``, and worked until ``ended``.
    ``critical``: it is on the chain that made the run as long as it was.
    """

    build: Build
    ready: float
    began: float
    ended: float
    critical: bool = False


@dataclass(frozen=True)
class PastRun:
    """One run of doit: when it began, how long it took, what it did. ``cached`` of ``steps`` came from the cache."""

    started: float
    wall: float
    work: float
    built: int
    other: int
    failed: int
    cached: int
    steps: int

    @property
    def hit_rate(self) -> float | None:
        """The share of steps that came from the cache; ``None`` when no step was looked at."""
        return share(self.cached, self.steps)


@dataclass(frozen=True)
class StepHistory:
    """One step of an image over some builds, oldest first; ``None`` in those that did not have it."""

    records: Sequence[StepRecord | None]

    @property
    def last(self) -> StepRecord:
        """It as it was last."""
        return next(step for step in reversed(self.records) if step)

    @property
    def outcomes(self) -> tuple[StepOutcome | None, ...]:
        """What came of it in each build, None where it is absent."""
        return tuple(step.outcome if step else None for step in self.records)

    @property
    def hits(self) -> int:
        """How often it came from the cache."""
        return self.outcomes.count(StepOutcome.CACHED)

    @property
    def seen(self) -> int:
        """In how many builds it was."""
        return sum(step is not None for step in self.records)

    @property
    def executed(self) -> list[float]:
        """The seconds of its executions that ended well."""
        return [step.seconds for step in self.records if step and not step.cached and not step.error]

    @property
    def usual_seconds(self) -> float | None:
        """The median of its executions, ``None`` when it was never seen to be executed."""
        return median(self.executed) if self.executed else None

    @property
    def saved(self) -> float:
        """The seconds that the cache saved: what it usually takes, for each hit."""
        return self.hits * (self.usual_seconds or 0.0)


@dataclass(frozen=True)
class Cause:
    """Why builds were done: for each reason the images, the number of builds and the seconds."""

    reason: str
    builds: int
    seconds: float
    images: tuple[str, ...]


def timeline(run: Sequence[Build]) -> list[Lane]:
    """The lanes of one run, in order of start."""
    start = _start(run)
    ends = {build.image: build.ended for build in run}
    critical = {build.id for build in critical_path(run)}
    lanes = []
    for build in sorted(run, key=lambda build: (build.started, build.id)):
        parents = [ends[name] for name in build.parents if name in ends]
        ready = min(max(parents, default=start), build.started)
        lanes.append(Lane(build, ready - start, build.started - start, build.ended - start, build.id in critical))
    return lanes


def critical_path(run: Sequence[Build]) -> list[Build]:
    """The chain of builds, first to last, that made the run as long as it was.

    From the build that ended last back to what it had waited for: the parent that ended last, or, when it stood ready
    for longer than ``SLACK``, the build whose end gave it a worker.
    """
    path: list[Build] = []
    build = max(run, key=lambda build: build.ended, default=None)
    while build is not None:
        path.append(build)
        build = _waited_for(build, run)
    return path[::-1]


def longest_chain(run: Sequence[Build]) -> float:
    """Seconds of the longest chain of parents and children: no number of workers makes the run shorter."""
    seconds: dict[str, float] = defaultdict(float)
    for build in run:
        seconds[build.image] += build.seconds  # what moved meanwhile was built again
    by_start = sorted(run, key=lambda build: build.started)  # parents begin before their children
    parents = {build.image: [name for name in build.parents if name in seconds] for build in by_start}
    return max(remaining_path(parents, seconds).values(), default=0.0)


def runs(builds: Iterable[Build]) -> list[PastRun]:
    """The runs that these builds belong to, oldest first."""
    groups = grouped(builds, lambda build: build.run)
    return sorted(map(_run, groups.values()), key=lambda run: run.started)


def of_last_runs(builds: Sequence[Build], count: int) -> list[Build]:
    """The builds of the last ``count`` runs that did something. ``builds``: newest first."""
    last = set(list(dict.fromkeys(build.run for build in builds))[:count])
    return [build for build in builds if build.run in last]


def step_histories(builds: Iterable[Build], columns: int = 20) -> dict[str, dict[StepKey, StepHistory]]:
    """For each image, the steps of its latest build over its last ``columns`` builds. ``builds``: newest first."""
    real = (build for build in builds if build.action == Action.BUILD and build.work_steps)
    by_image = {}
    for image, kept in sorted(grouped(real, lambda build: build.image).items()):
        histories = steps_of(kept[:columns][::-1])
        latest = {id(step): key for key, step in keyed(kept[0].steps)}
        by_image[image] = {latest[id(step)]: histories[latest[id(step)]] for step in kept[0].steps if step.work}
    return by_image


def steps_of(builds: Sequence[Build]) -> dict[StepKey, StepHistory]:
    """Every step of these builds of one image, oldest first."""
    records: dict[StepKey, list[StepRecord | None]] = defaultdict(lambda: [None] * len(builds))
    for place, build in enumerate(builds):
        for key, step in keyed(build.steps):
            records[key][place] = step
    return {key: StepHistory(some) for key, some in records.items()}


def saved_seconds(run: Iterable[Build], histories: Mapping[str, Mapping[StepKey, StepHistory]]) -> float:
    """What the steps that came from the cache in a run take when they are executed, where that was ever seen."""
    hits = [histories.get(build.image, {}).get(key) for build in run for key, step in keyed(build.steps) if step.cached]
    return sum(step.usual_seconds or 0.0 for step in hits if step)


def latest_layers(builds: Iterable[Build]) -> dict[str, list[Layer]]:
    """The latest known layers of each image, the largest image first. ``builds``: newest first."""
    latest: dict[str, list[Layer]] = {}
    for build in builds:
        if build.layers is not None and build.status == Status.DONE and build.image not in latest:
            latest[build.image] = chained(build.layers)
    return dict(sorted(latest.items(), key=lambda item: -sum(layer.size for layer in item[1])))


def causes(builds: Iterable[Build]) -> list[Cause]:
    """What the real builds were caused by, the costliest first. A build with several reasons counts for each."""
    caused: dict[str, list[Build]] = defaultdict(list)
    for build in builds:
        for reason in dict.fromkeys(build.causes if build.action == Action.BUILD else ()):
            caused[reason].append(build)
    costs = [
        Cause(reason, len(some), sum(build.seconds for build in some), tuple(dict.fromkeys(b.image for b in some)))
        for reason, some in caused.items()
    ]
    return sorted(costs, key=lambda cause: (-cause.seconds, cause.reason))


def on_tracks(steps: Iterable[StepRecord]) -> list[tuple[StepRecord, float, int]]:
    """The steps that began, in that order: each with when, and the first track on which no other runs at that time."""
    free: list[float] = []
    placed = []
    began = [(step, step.started) for step in steps if step.started is not None]
    for step, begin in sorted(began, key=lambda one: one[1]):
        track = next((number for number, until in enumerate(free) if until <= begin), len(free))
        free[track : track + 1] = [max(begin + step.seconds, begin)]
        placed.append((step, begin, track))
    return placed


def grouped(builds: Iterable[Build], by: Callable[[Build], str]) -> dict[str, list[Build]]:
    """The builds by what ``by`` says of each, in their order."""
    groups: dict[str, list[Build]] = defaultdict(list)
    for build in builds:
        groups[by(build)].append(build)
    return groups


def share(part: int, whole: int) -> float | None:
    """A part of a whole; None of nothing."""
    return part / whole if whole else None


def _start(run: Sequence[Build]) -> float:
    return min((build.started - max(0.0, build.waited) for build in run), default=0.0)


def _waited_for(build: Build, run: Sequence[Build]) -> Build | None:
    before = [other for other in run if other.id != build.id and other.ended <= build.started + SLACK]
    before = [other for other in before if other.started < build.started]
    parents = [other for other in before if other.image in build.parents]
    parent = max(parents, key=lambda other: other.ended, default=None)
    last = max(before, key=lambda other: other.ended, default=None)
    if parent is not None and build.started - parent.ended <= SLACK:
        return parent
    return last if last is not None and build.started - last.ended <= SLACK else parent


def _run(group: Sequence[Build]) -> PastRun:
    start, images = _start(group), [build for build in group if not is_test(build)]
    return PastRun(
        started=start,
        wall=max(build.ended for build in group) - start,
        work=sum(build.seconds for build in group),
        built=sum(build.action == Action.BUILD and build.status == Status.DONE for build in group),
        other=sum(build.action != Action.BUILD and build.status == Status.DONE for build in images),
        failed=sum(build.status != Status.DONE for build in group),
        cached=sum(build.cached_steps for build in images),
        steps=sum(build.work_steps for build in images),
    )
