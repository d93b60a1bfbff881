"""How often was work spared, and what was done again although it had been done?

Pure, from the history of builds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tasks.history.store import Build, Status, StepKey, keyed
from tasks.planning.action import Action
from tasks.planning.reasons import DUE, NO_CACHE


@dataclass
class StepHits:
    """One step of an image, under its last name: how often it came up, how often from the cache, the seconds that its
    executions took."""

    name: str
    seen: int = 0
    cached: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class ImageHits:
    """One image: how often it was built, renamed and pulled, its steps, the seconds that were spared, and the builds
    of what had been built before and was gone (their number and their seconds)."""

    image: str
    built: int = 0
    retagged: int = 0
    pulled: int = 0
    steps: dict[StepKey, StepHits] = field(default_factory=dict)
    saved: float = 0.0
    evicted: int = 0
    evicted_seconds: float = 0.0

    @property
    def step_rate(self) -> float | None:
        """The share of its steps that came from the cache."""
        seen = sum(step.seen for step in self.steps.values())
        return sum(step.cached for step in self.steps.values()) / seen if seen else None

    @property
    def image_rate(self) -> float | None:
        """The share of its stale turns in which nothing had to be built."""
        turns = self.built + self.retagged + self.pulled
        return (self.retagged + self.pulled) / turns if turns else None


def count(builds: Iterable[Build]) -> dict[str, ImageHits]:
    """The hits of each image over these builds, in any order; only what ended well counts."""
    found: dict[str, ImageHits] = {}
    made: dict[str, set[str]] = defaultdict(set)
    took: dict[str, list[float]] = defaultdict(list)
    for build in sorted((one for one in builds if one.status == Status.DONE), key=lambda one: (one.started, one.id)):
        hits = found.setdefault(build.image, ImageHits(build.image))
        usual = median(took[build.image]) if took[build.image] else None
        if build.action == Action.BUILD:
            hits.built += 1
            _count_steps(hits, build)
            if build.fingerprint in made[build.image] and not {NO_CACHE, DUE} & set(build.reasons):
                hits.evicted += 1
                hits.evicted_seconds += build.seconds
            took[build.image].append(build.seconds)
        elif build.action in (Action.RETAG, Action.PULL):
            hits.retagged += build.action == Action.RETAG
            hits.pulled += build.action == Action.PULL
            hits.saved += max(0.0, (usual or 0.0) - build.seconds)
        made[build.image].add(build.fingerprint)
    return found


def worst(hits: ImageHits, limit: int = 3) -> Sequence[StepHits]:
    """The steps of an image that cost most by being executed."""
    executed = [step for step in hits.steps.values() if step.seconds]
    return sorted(executed, key=lambda step: -sum(step.seconds))[:limit]


def _count_steps(hits: ImageHits, build: Build) -> None:
    for key, step in keyed(build.steps):
        known = hits.steps.setdefault(key, StepHits(step.name))
        known.name = step.name
        known.seen += 1
        if step.cached:
            known.cached += 1
            hits.saved += known.seconds[-1] if known.seconds else 0.0
        else:
            known.seconds.append(step.seconds)
