"""What do the stored builds tell?

Pure functions from builds, as ``tasks.history.store`` keeps them, to what the report shows: who waited for whom in a
run and which chain made it as long as it was, which steps came from the cache, what images share, how runs
changed over time, and what rebuilds were caused by.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tasks.history.store import Build, Status, StepKey, StepRecord, keyed
from tasks.planning.action import Action

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
class Link:
    """One build of the critical path, and what it had waited for: ``start``, ``parent`` or ``worker``."""

    build: Build
    after: str


@dataclass(frozen=True)
class PastRun:
    """One run of doit: when it began, how long it took, what it did. ``cached`` of ``steps`` came from the cache."""

    id: str
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
        return self.cached / self.steps if self.steps else None


@dataclass(frozen=True)
class StepHistory:
    """One step of an image over its last builds, oldest first: ``cached``, ``executed``, ``failed``, or "" (absent)."""

    name: str
    key: StepKey
    outcomes: tuple[str, ...]
    last: StepRecord
    usual_seconds: float | None
    """The median of its executions, ``None`` when it was never seen to be executed."""

    @property
    def hits(self) -> int:
        """How often it came from the cache."""
        return self.outcomes.count("cached")

    @property
    def seen(self) -> int:
        """In how many builds it was."""
        return sum(bool(outcome) for outcome in self.outcomes)


@dataclass(frozen=True)
class Layer:
    """One layer of an image and the images that hold it, on the same layers below: ``chain`` names it with those."""

    digest: str
    chain: str
    size: int
    images: tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """An image and its layers from the base up; ``shared`` bytes lie in layers that other images hold too."""

    image: str
    layers: tuple[Layer, ...]
    total: int
    shared: int

    @property
    def unique(self) -> int:
        """Bytes that removing this image alone would free."""
        return self.total - self.shared


@dataclass(frozen=True)
class Cause:
    """Why builds were done: how many builds and seconds it cost, and of which images."""

    reason: str
    builds: int
    seconds: float
    images: tuple[str, ...]


def timeline(run: Sequence[Build]) -> list[Lane]:
    """The lanes of one run, in order of start."""
    start = _start(run)
    ends = {build.image: build.ended for build in run}
    critical = {link.build.id for link in critical_path(run)}
    lanes = []
    for build in sorted(run, key=lambda build: (build.started, build.id)):
        parents = [ends[name] for name in build.parents if name in ends]
        ready = min(max(parents, default=start), build.started)
        lanes.append(Lane(build, ready - start, build.started - start, build.ended - start, build.id in critical))
    return lanes


def critical_path(run: Sequence[Build]) -> list[Link]:
    """The chain of builds, first to last, that made the run as long as it was.

    From the build that ended last back to what it had waited for: the parent that ended last, or, when it stood ready
    for longer than ``SLACK``, the build whose end gave it a worker.
    """
    path: list[Link] = []
    build = max(run, key=lambda build: build.ended, default=None)
    while build is not None:
        before, after = _waited_for(build, run)
        path.append(Link(build, after))
        build = before
    return path[::-1]


def longest_chain(run: Sequence[Build]) -> float:
    """Seconds of the longest chain of parents and children: no number of workers makes the run shorter."""
    by_name = {build.image: build for build in run}
    ends: dict[str, float] = {}
    for build in sorted(run, key=lambda build: build.started):  # parents begin before their children
        # What moved meanwhile was built again.
        ends[build.image] = build.seconds + max(
            ends.get(name, 0.0) for name in (*build.parents, build.image) if name in by_name
        )
    return max(ends.values(), default=0.0)


def runs(builds: Iterable[Build]) -> list[PastRun]:
    """The runs that these builds belong to, oldest first."""
    grouped: dict[str, list[Build]] = defaultdict(list)
    for build in builds:
        grouped[build.run].append(build)
    return sorted((_run(name, group) for name, group in grouped.items()), key=lambda run: run.started)


def step_histories(builds: Sequence[Build], columns: int = 20) -> dict[str, list[StepHistory]]:
    """For each image, the steps of its latest build over its last ``columns`` builds. ``builds``: newest first."""
    by_image: dict[str, list[Build]] = defaultdict(list)
    for build in builds:
        if build.action == Action.BUILD and build.work_steps:
            by_image[build.image].append(build)
    found: dict[str, list[StepHistory]] = {}
    for image, kept in sorted(by_image.items()):
        shown = [dict(keyed(build.steps)) for build in kept[:columns][::-1]]
        keys = {id(step): key for key, step in keyed(kept[0].steps)}
        found[image] = [_step_history(step, keys[id(step)], shown) for step in kept[0].steps if step.work]
    return found


def saved_seconds(run: Iterable[Build], histories: Mapping[str, Sequence[StepHistory]]) -> float:
    """What the steps that came from the cache in a run take when they are executed, where that was ever seen."""
    usual = {
        (image, history.key): history.usual_seconds or 0.0 for image, steps in histories.items() for history in steps
    }
    return sum(usual.get((build.image, key), 0.0) for build in run for key, step in keyed(build.steps) if step.cached)


def sizes(builds: Iterable[Build]) -> list[Size]:
    """The latest known layers of each image, the largest image first. ``builds``: newest first."""
    latest: dict[str, tuple[tuple[str, int], ...]] = {}
    for build in builds:
        if build.layers is not None and build.status == Status.DONE:
            latest.setdefault(build.image, build.layers)
    holders: dict[str, set[str]] = defaultdict(set)
    for image, layers in latest.items():
        for chain in _chains(layers):
            holders[chain].add(image)
    return sorted((_size(image, layers, holders) for image, layers in latest.items()), key=lambda size: -size.total)


def stored_bytes(images: Iterable[Size]) -> int:
    """What these images take together: every layer counted once."""
    return sum({layer.chain: layer.size for image in images for layer in image.layers}.values())


def causes(builds: Iterable[Build]) -> list[Cause]:
    """What the real builds were caused by, the costliest first. A build with several reasons counts for each."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    images: dict[str, dict[str, None]] = defaultdict(dict)
    for build in builds:
        if build.action != Action.BUILD:
            continue
        for reason in dict.fromkeys(build.reasons or ("no reason was recorded",)):
            counts[reason] += 1
            seconds[reason] += build.seconds  # type: ignore[assignment]  # typeshed: Counter counts whole numbers
            images[reason][build.image] = None
    found = [Cause(reason, counts[reason], seconds[reason], tuple(images[reason])) for reason in counts]
    return sorted(found, key=lambda cause: (-cause.seconds, cause.reason))


def tracks(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each span (from, to), in order of begin, the first track on which nothing else runs at that time."""
    free: list[float] = []
    chosen = []
    for begin, end in spans:
        track = next((number for number, until in enumerate(free) if until <= begin), len(free))
        free[track : track + 1] = [max(end, begin)]
        chosen.append(track)
    return chosen


def _start(run: Sequence[Build]) -> float:
    return min((build.started - max(0.0, build.waited) for build in run), default=0.0)


def _waited_for(build: Build, run: Sequence[Build]) -> tuple[Build | None, str]:
    before = [other for other in run if other.id != build.id and other.ended <= build.started + SLACK]
    before = [other for other in before if other.started < build.started]
    parents = [other for other in before if other.image in build.parents]
    parent = max(parents, key=lambda other: other.ended, default=None)
    last = max(before, key=lambda other: other.ended, default=None)
    if parent is not None and (build.started - parent.ended <= SLACK or last is parent):
        return parent, "parent"
    if last is not None and build.started - last.ended <= SLACK:
        return last, "worker"
    return parent, "parent" if parent is not None else "start"


def _run(name: str, group: Sequence[Build]) -> PastRun:
    start = _start(group)
    return PastRun(
        id=name,
        started=start,
        wall=max(build.ended for build in group) - start,
        work=sum(build.seconds for build in group),
        built=sum(build.action == Action.BUILD and build.status == Status.DONE for build in group),
        other=sum(build.action != Action.BUILD and build.status == Status.DONE for build in group),
        failed=sum(build.status != Status.DONE for build in group),
        cached=sum(build.cached_steps for build in group),
        steps=sum(build.work_steps for build in group),
    )


def _step_history(step: StepRecord, key: StepKey, builds: Sequence[Mapping[StepKey, StepRecord]]) -> StepHistory:
    found = [build.get(key) for build in builds]
    executed = [s.seconds for s in found if s is not None and not s.cached and not s.error]
    return StepHistory(
        name=step.name,
        key=key,
        outcomes=tuple(_outcome(s) for s in found),
        last=step,
        usual_seconds=median(executed) if executed else None,
    )


def _outcome(step: StepRecord | None) -> str:
    if step is None:
        return ""
    return "failed" if step.error else "cached" if step.cached else "executed"


def _size(image: str, layers: Sequence[tuple[str, int]], holders: Mapping[str, set[str]]) -> Size:
    known = tuple(
        Layer(digest, chain, size, tuple(sorted(holders[chain])))
        for (digest, size), chain in zip(layers, _chains(layers), strict=True)
    )
    return Size(
        image=image,
        layers=known,
        total=sum(layer.size for layer in known),
        shared=sum(layer.size for layer in known if len(layer.images) > 1),
    )


def _chains(layers: Sequence[tuple[str, int]]) -> list[str]:
    """OCI's ChainIDs: engines store a layer once for each different set of layers below it."""
    chains: list[str] = []
    for digest, _ in layers:
        below = f"{chains[-1]} {digest}".encode() if chains else b""
        chains.append(f"sha256:{hashlib.sha256(below).hexdigest()}" if below else digest)
    return chains
