"""What does the timeline of a run show? Who worked when, who waited for whom, and the longest chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from doit_images.core.base.formatting import seconds_text
from doit_images.core.history.store import Build, Status, StepRecord
from doit_images.core.planning.plan import Action
from doit_images.ui.statistics import Lane, critical_path, longest_chain, on_tracks, timeline

LANE, STEP = 32, 8
"""Heights in CSS pixels: of a lane, and of each track of steps below it."""


@dataclass(frozen=True)
class Bar:
    """A bar in a lane: its CSS class, where it lies, and what its hint says."""

    kind: str
    style: str
    hint: str


@dataclass(frozen=True)
class Drawn:
    """One image's lane, ``height`` pixels high, ``top`` below the first."""

    lane: Lane
    top: int
    height: int
    waits: Sequence[Bar]
    work: Bar
    steps: Sequence[Bar]


@dataclass(frozen=True)
class Arrow:
    """A line from what an image waited for to its beginning, as an SVG path."""

    critical: bool
    path: str


@dataclass(frozen=True)
class Timeline:
    """The timeline as it is drawn: all that ``report.html`` needs."""

    verdict: str
    wall: float
    height: int
    lanes: Sequence[Drawn]
    links: Sequence[Arrow]
    ticks: Sequence[float]
    path: Sequence[Build]
    steps: Sequence[tuple[str, StepRecord]]


def timeline_of(run: Sequence[Build]) -> Timeline:
    """The timeline of a run that did something."""
    lanes = timeline(run)
    wall = max(lane.ended for lane in lanes) or 1.0
    path = critical_path(run)
    drawn: list[Drawn] = []
    top = 0
    for lane in lanes:
        drawn.append(_lane(lane, wall, top))
        top += drawn[-1].height
    tops = {one.lane.build.image: one.top for one in drawn}
    return Timeline(
        verdict=_verdict(run, path, wall),
        wall=wall,
        height=top,
        lanes=drawn,
        links=sorted(_links(lanes, path, tops, wall), key=lambda link: (link.critical, link.path)),
        ticks=_ticks(wall),
        path=path,
        steps=[(lane.build.image, s) for lane in lanes for s in lane.build.steps if s.work or s.seconds >= 0.05],
    )


def _verdict(run: Sequence[Build], path: Sequence[Build], wall: float) -> str:
    chain = longest_chain(run)
    spent = sum(build.seconds for build in path)
    text = f"{seconds_text(spent)} of {seconds_text(wall)} lie on the critical path. "
    if chain >= 0.9 * wall:
        return text + "More workers would not help: the images wait for one another."
    return text + f"With a worker for every image it could end after {seconds_text(chain)}, at the earliest."


def _lane(lane: Lane, wall: float, top: int) -> Drawn:
    placed = on_tracks(step for step in lane.build.steps if _visible(step, wall))
    bars = []
    offset = lane.build.started - lane.began
    for step, began, track in placed:
        begin = began - offset
        style = f"{_span(begin, begin + step.seconds, wall)};top:{LANE + track * STEP - 2}px"
        kind = "failed" if step.error else "executed" if step.number else "export"
        bars.append(Bar(kind, style, f"{step.name}: {seconds_text(step.seconds)}"))
    return Drawn(
        lane=lane,
        top=top,
        height=LANE + (max((track for _, _, track in placed), default=-1) + 1) * STEP + 4,
        waits=_waits(lane, wall),
        work=_work(lane, wall),
        steps=bars,
    )


def _waits(lane: Lane, wall: float) -> list[Bar]:
    parents = f"waited {seconds_text(lane.ready)} for {', '.join(lane.build.parents)}"
    worker = f"waited {seconds_text(lane.began - lane.ready)} for a free worker"
    waits = [("parents", 0.0, lane.ready, parents), ("slot", lane.ready, lane.began, worker)]
    return [Bar(kind, _span(begin, end, wall), hint) for kind, begin, end, hint in waits if end - begin > 0.005 * wall]


def _work(lane: Lane, wall: float) -> Bar:
    build = lane.build
    kind = "failed" if build.status != Status.DONE else "executed" if build.action == Action.BUILD else "cached"
    if build.seconds / wall < 0.08:
        kind += " short last" if lane.ended / wall > 0.9 else " short"
    hint = f"{build.image}: {build.action} {build.status}, {seconds_text(build.seconds)}\n{'; '.join(build.causes)}"
    return Bar(kind, _span(lane.began, lane.ended, wall), hint)


def _visible(step: StepRecord, wall: float) -> bool:
    return not step.cached and (step.seconds > 0.004 * wall or bool(step.error))


def _links(lanes: Sequence[Lane], path: Sequence[Build], tops: dict[str, int], wall: float) -> Iterator[Arrow]:
    by_name = {lane.build.image: lane for lane in lanes}
    hot = {(a.image, b.image) for a, b in pairwise(path)}
    for lane in lanes:
        befores = [name for name in lane.build.parents if name in by_name]
        befores += [a for a, b in hot if b == lane.build.image and a not in befores]
        for before in befores:
            x1, x2 = (100 * by_name[before].ended / wall, 100 * lane.began / wall)
            y1, y2 = tops[before] + 15, tops[lane.build.image] + 15
            yield Arrow((before, lane.build.image) in hot, f"M{x1:.2f} {y1}V{y2}H{x2:.2f}")


def _ticks(wall: float) -> list[float]:
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600) if wall / s <= 9), 7200)
    return [n * step for n in range(int(wall / step) + 1) if wall - n * step > step * 0.4 or not n]


def _span(begin: float, end: float, wall: float) -> str:
    """Where that lies, as CSS: a share of the track's width."""
    left = max(0.0, min(100.0, 100 * begin / wall))
    return f"left:{left:.3f}%;width:{max(0.0, min(100 - left, 100 * (end - begin) / wall)):.3f}%"
