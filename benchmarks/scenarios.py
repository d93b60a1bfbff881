"""How long do the ways of building take, in the situations that a team meets every day?

``cold``        nothing was ever built; only the base images are there
``nothing``     everything is built, and nothing changed
``code``        one line of one service's code changed
``dependency``  one line of one service's list of packages changed
``base``        one line of the list of packages of an image that others build on changed
``system``      the external base image under everything changed, as after a security update

All ways build the same copy of the project, in turns, each in an engine of its own. ``code`` is also measured of the
barest command that there is, one ``docker buildx build`` of the documented Dockerfile, on a line of its own that is
taken back. A round in which something failed is taken again; one that fails three times is left out, and said.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import edits, measure
from benchmarks.measure import Timing
from benchmarks.side_by_side import SideBySide
from doit_images.core.base.errors import UserError
from doit_images.core.buildkit.progress import brief

SCENARIOS = ("cold", "nothing", "code", "dependency", "base", "system")
REBUILDS = ("code", "dependency", "base")


@dataclass(frozen=True)
class Case:
    """One scenario, for one ``image`` ("": everything at once), measured each way; ``documented`` and ``plain`` (one
    bare build) where the project declares that way.

    ``what`` was done to bring it about; ``longest`` are the steps that the last optimized build spent its time in.
    """

    scenario: str
    image: str
    standard: Timing
    optimized: Timing
    what: str = ""
    longest: tuple[str, ...] = ()
    documented: Timing | None = None
    plain: Timing | None = None

    @property
    def improvement(self) -> float:
        """The part of the standard build's time that is saved."""
        return 1 - self.optimized.median / self.standard.median

    @property
    def timings(self) -> dict[str, Timing]:
        """All that was measured, by way."""
        every = {
            "standard": self.standard,
            "documented": self.documented,
            "plain": self.plain,
            "optimized": self.optimized,
        }
        return {way: timing for way, timing in every.items() if timing}

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "scenario": self.scenario,
            "image": self.image or None,
            "what": self.what,
            **{way: timing.as_json() for way, timing in self.timings.items()},
            "improvement": round(self.improvement, 4),
            "longest": list(self.longest),
        }


@dataclass(frozen=True)
class _Plan:
    """A case before it is measured: ``prepare`` brings about the situation, once before all ways are timed. ``edit`` is
    what it changes, for a case of code."""

    scenario: str
    image: str
    what: str
    prepare: Callable[[str], None]
    edit: edits.Edit | None = None

    @property
    def label(self) -> str:
        """How it is named in progress."""
        return f"{self.scenario} {self.image}".strip()


@dataclass
class _Measured:
    """What was measured of a case: seconds by way, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    longest: tuple[str, ...] = ()

    def case(self, one: _Plan) -> Case:
        """The case with what was measured."""
        times = {way: Timing(tuple(seconds)) for way, seconds in self.seconds.items()}
        return Case(one.scenario, one.image, what=one.what, longest=self.longest, **times)


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

    ``inputs`` are the files that each image is made of. What could be measured is there; ``UserError`` when that is
    nothing.
    """
    plans = [one for one in _plans(both, inputs, images, bases) if one.scenario in scenarios]
    found = {number: _Measured() for number in range(len(plans))}
    if "cold" not in scenarios:
        told("building everything once, each way")
        _settle(both)
    left = measure.TimeLeft()
    for turn in range(repeat):
        for number, one in enumerate(plans):
            began = time.monotonic()
            seconds = _round(both, one, turn, f"benchmark {turn} {number}", told)
            left.took(number, time.monotonic() - began)
            for way, value in seconds.items():
                found[number].seconds.setdefault(way, []).append(value)
            if seconds:
                found[number].longest = _longest(both)
            rest = left.of([*range(number + 1, len(plans)), *[*range(len(plans))] * (repeat - turn - 1)])
            said = ", ".join(f"{way} {value:.2f} s" for way, value in seconds.items()) or "left out"
            told(f"{turn + 1}/{repeat} {one.label}: {said}{rest}")
    cases = [found[number].case(one) for number, one in enumerate(plans) if found[number].seconds]
    if not cases:
        raise UserError("nothing could be measured: each build failed, as was said above")
    return cases


def _round(both: SideBySide, one: _Plan, turn: int, salt: str, told: Callable[[str], None]) -> dict[str, float]:
    """The seconds of each way; none when it failed ``measure.TRIES`` times."""
    tries = itertools.count()

    def take() -> dict[str, float]:
        again = next(tries)
        one.prepare(f"{salt} {again}" if again else salt)
        ways = list(both.ways.items())
        seconds = {way: build().seconds for way, build in (ways if turn % 2 == 0 else ways[::-1])}
        if one.edit and "documented" in seconds:
            seconds["plain"] = _plainly(both, one, one.edit, f"{salt} {again} plain")
        return seconds

    try:
        return measure.tried(take, told, between=lambda: _settle(both, fail=False))
    except UserError as error:
        told(f"{one.label} is left out of this round: {error}")
        _settle(both, fail=False)
        return {}


def _plainly(both: SideBySide, one: _Plan, edit: edits.Edit, salt: str) -> float:
    """The seconds of one bare build of a line more, which is then taken back: no way has to build it later."""
    file = both.folder / edit.path
    before = file.read_bytes()
    edit.apply(both.folder, salt)
    try:
        return both.build_plainly(one.image).seconds
    finally:
        file.write_bytes(before)


def _settle(both: SideBySide, *, fail: bool = True) -> None:
    """Let each way build what is there, unmeasured, so that a round begins where the last one ended."""
    for build in both.ways.values():
        with contextlib.nullcontext() if fail else contextlib.suppress(UserError):
            build()


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
            plans.append(_Plan("code", image, f"one line more in {code.path}", editing(code), code))
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


def total(cases: Sequence[Case], scenarios: Collection[str], image: str | None = None) -> dict[str, float]:
    """The medians of all these cases together, for each way that all of them were measured in; of one ``image``'s alone
    if it is given."""
    chosen = [one for one in cases if one.scenario in scenarios and image in (None, one.image)]
    ways = ("standard", "documented", "plain", "optimized")
    return {
        way: sum(one.timings[way].median for one in chosen) for way in ways if all(way in one.timings for one in chosen)
    }


def in_machine(cases: Sequence[Case], machine: Mapping[str, Any]) -> dict[str, Any]:
    """All cases as plain data, with the machine that they were measured on."""
    return {"cases": [one.as_json() for one in cases], "machine": dict(machine)}
