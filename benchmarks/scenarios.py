"""How long do the standard and the optimized way take, in the situations that a team meets every day?

``cold``        nothing was ever built; only the base images are there
``nothing``     everything is built, and nothing changed
``code``        one line of one service's code changed
``dependency``  one line of one service's list of packages changed
``base``        one line of the list of packages of an image that others build on changed
``system``      the external base image under everything changed, as after a security update

Both ways build the same copy of the project, in turns, each in an engine of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import edits, measure
from benchmarks.measure import Timing
from benchmarks.side_by_side import SideBySide
from tasks.buildkit.progress import brief

SCENARIOS = ("cold", "nothing", "code", "dependency", "base", "system")
REBUILDS = ("code", "dependency", "base")


@dataclass(frozen=True)
class Case:
    """One scenario, for one ``image`` ("": everything at once), measured both ways.

    ``what`` was done to bring it about; ``longest`` are the steps that the last optimized build spent its time in.
    """

    scenario: str
    image: str
    standard: Timing
    optimized: Timing
    what: str = ""
    longest: tuple[str, ...] = ()

    @property
    def improvement(self) -> float:
        """The part of the standard build's time that is saved."""
        return 1 - self.optimized.median / self.standard.median

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "scenario": self.scenario,
            "image": self.image or None,
            "what": self.what,
            "standard": self.standard.as_json(),
            "optimized": self.optimized.as_json(),
            "improvement": round(self.improvement, 4),
            "longest": list(self.longest),
        }


@dataclass(frozen=True)
class _Plan:
    """A case before it is measured: ``prepare`` brings about the situation, once before both ways are timed."""

    scenario: str
    image: str
    what: str
    prepare: Callable[[str], None]


def run(
    both: SideBySide,
    inputs: Mapping[str, Collection[str]],
    images: Sequence[str],
    bases: Sequence[str],
    repeat: int,
    told: Callable[[str], None] = lambda line: None,
    scenarios: Sequence[str] = SCENARIOS,
) -> list[Case]:
    """Measure every scenario ``repeat`` times; ``code`` and ``dependency`` for each service among ``images``, ``base``
    for each of ``bases``, which other images build on.

    ``inputs`` are the files that each image is made of. A build that fails raises ``UserError``.
    """
    plans = [one for one in _plans(both, inputs, images, bases) if one.scenario in scenarios]
    longest: dict[int, tuple[str, ...]] = {}
    seconds: dict[int, tuple[list[float], list[float]]] = {number: ([], []) for number in range(len(plans))}
    if "cold" not in scenarios:
        told("building everything once, both ways")
        both.build_standard()
        both.build_optimized()
    for turn in range(repeat):
        for number, one in enumerate(plans):
            one.prepare(f"benchmark {turn} {number}")
            ways = [both.build_standard, both.build_optimized]
            for way in ways if turn % 2 == 0 else reversed(ways):
                ran = way()
                seconds[number][ways.index(way)].append(ran.seconds)
                if way == both.build_optimized:
                    longest[number] = _longest(both)
            standard, optimized = (found[-1] for found in seconds[number])
            label = f"{one.scenario} {one.image}".strip()
            told(f"{turn + 1}/{repeat} {label}: standard {standard:.1f} s, optimized {optimized:.1f} s")
    return [
        Case(one.scenario, one.image, Timing(tuple(standard)), Timing(tuple(optimized)), one.what, longest[number])
        for number, (one, (standard, optimized)) in enumerate(zip(plans, seconds.values(), strict=True))
    ]


def _plans(
    both: SideBySide, inputs: Mapping[str, Collection[str]], images: Sequence[str], bases: Sequence[str]
) -> list[_Plan]:
    def editing(edit: edits.Edit) -> Callable[[str], None]:
        return lambda salt: edit.apply(both.folder, salt)

    plans = [
        _Plan(
            "cold",
            "",
            "the base images are there: no other image, no build cache, no cache mount",
            lambda salt: both.forget_everything(),
        ),
        _Plan("nothing", "", "just after everything was built", lambda salt: None),
    ]
    for image in edits.services(images, inputs):
        code, packages = edits.code_of(image, inputs), edits.requirements_of(image, inputs)
        if code and packages:
            plans.append(_Plan("code", image, f"one line more in {code.path}", editing(code)))
            plans.append(_Plan("dependency", image, f"one line more in {packages.path}", editing(packages)))
    for base in bases:
        packages = edits.requirements_of(base, inputs)
        if packages:
            plans.append(_Plan("base", base, f"one line more in {packages.path}", editing(packages)))
    return [*plans, _Plan("system", "", f"{', '.join(both.bases)} with another file", both.change_base)]


def _longest(both: SideBySide) -> tuple[str, ...]:
    """Where the time of the copy's last build went, the longest first: the reason when a goal is missed."""
    steps = [
        (step.seconds, f"{build.image}: {brief(step.name)}")
        for build in both.run().history.last_run()
        for step in build.steps
        if not step.cached
    ]
    return tuple(f"{seconds:.1f} s {name}" for seconds, name in sorted(steps, reverse=True)[:3])


def total(cases: Sequence[Case], scenarios: Collection[str], image: str | None = None) -> tuple[float, float]:
    """The medians of all these cases together, standard and optimized; of one ``image``'s alone if it is given."""
    chosen = [one for one in cases if one.scenario in scenarios and image in (None, one.image)]
    return sum(one.standard.median for one in chosen), sum(one.optimized.median for one in chosen)


def in_machine(cases: Sequence[Case]) -> dict[str, Any]:
    """All cases as plain data, with the machine that they were measured on."""
    return {"cases": [one.as_json() for one in cases], "machine": measure.machine()}
