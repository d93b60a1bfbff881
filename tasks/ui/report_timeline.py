"""How is the timeline of a run drawn? Who worked when, who waited for whom, and the chain that took longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from tasks.base.formatting import seconds_text
from tasks.history.statistics import Lane, Link, critical_path, longest_chain, timeline, tracks
from tasks.history.store import Build, Status, StepRecord
from tasks.planning.action import Action
from tasks.ui.markup import bar, details, legend, number, span, step_name, table, tip

LANE, STEP = 32, 8
"""Heights in CSS pixels: of a lane, and of each track of steps below it."""

_AFTER = {"parent": "then its child", "worker": "then the worker went on with"}


def draw_timeline(run: Sequence[Build]) -> str:
    """The section of a run that did something."""
    lanes = timeline(run)
    wall = max(lane.ended for lane in lanes) or 1.0
    rows, tops, top = [], {}, 0
    for lane in lanes:
        body, height = _lane(lane, wall)
        rows.append(body)
        tops[lane.build.image] = top
        top += height
    path = critical_path(run)
    return f"""
<h2>Timeline of the last run</h2>
<p class="note">{escape(_verdict(run, path, wall))}</p>
{
        legend(
            [
                ("executed", "executed"),
                ("cached", "from the cache"),
                ("export", "preparing, exporting"),
                ("failed", "failed"),
                ("parents", "waiting for parents"),
                ("slot", "waiting for a worker"),
                ("outline", "critical path"),
            ]
        )
    }
<div class="lanes" data-rove role="group" aria-label="Timeline">{"".join(rows)}{
        _links(lanes, path, tops, top, wall)
    }</div>
{_axis(wall)}
<ol class="path" aria-label="Critical path">{_path(path)}</ol>
{_steps_table(lanes)}"""


def _verdict(run: Sequence[Build], path: Sequence[Link], wall: float) -> str:
    chain = longest_chain(run)
    spent = sum(link.build.seconds for link in path)
    text = f"{seconds_text(spent)} of {seconds_text(wall)} lie on the critical path. "
    if chain >= 0.9 * wall:
        return text + "More workers would not help: the images wait for one another."
    return text + f"With a worker for every image it could end after {seconds_text(chain)}, at the earliest."


def _lane(lane: Lane, wall: float) -> tuple[str, int]:
    steps = sorted((step for step in lane.build.steps if _drawn(step, wall)), key=_began)
    chosen = tracks([(_began(step), _began(step) + step.seconds) for step in steps])
    height = LANE + (max(chosen, default=-1) + 1) * STEP + 4
    bars = [*_waits(lane, wall), _work(lane, wall)]
    offset = lane.build.started - lane.began
    for step, place in zip(steps, chosen, strict=True):
        begin = _began(step) - offset
        style = f"{span(begin, begin + step.seconds, wall)};top:{LANE + place * STEP - 2}px"
        hint = escape(f"{step.name}: {seconds_text(step.seconds)}")
        bars.append(f'<i class="step {_kind(step)}" style="{style}" data-tip="{hint}"></i>')
    image = escape(lane.build.image)
    return (
        f'<div class="lane{" critical" if lane.critical else ""}"><div class="name" title="{image}">{image}</div>'
        f'<div class="track" style="height:{height}px">{"".join(bars)}</div></div>',
        height,
    )


def _waits(lane: Lane, wall: float) -> list[str]:
    parents = f"waited {seconds_text(lane.ready)} for {', '.join(lane.build.parents)}"
    worker = f"waited {seconds_text(lane.began - lane.ready)} for a free worker"
    waits = [("wait parents", 0.0, lane.ready, parents), ("wait slot", lane.ready, lane.began, worker)]
    return [bar(kind, begin, end, wall, hint) for kind, begin, end, hint in waits if end - begin > 0.005 * wall]


def _work(lane: Lane, wall: float) -> str:
    build = lane.build
    short = " short" if build.seconds / wall < 0.08 else ""
    short += " last" if short and lane.ended / wall > 0.9 else ""
    kind = "failed" if build.status != Status.DONE else "executed" if build.action == Action.BUILD else "cached"
    hint = f"{build.image}: {build.action} {build.status}, {seconds_text(build.seconds)}\n{'; '.join(build.causes)}"
    return (
        f'<button type="button" class="work {kind}{short}" style="{span(lane.began, lane.ended, wall)}" '
        f"{tip(hint)}><span>{escape(seconds_text(build.seconds))}</span></button>"
    )


def _drawn(step: StepRecord, wall: float) -> bool:
    return step.started is not None and not step.cached and (step.seconds > 0.004 * wall or bool(step.error))


def _links(lanes: Sequence[Lane], path: Sequence[Link], tops: Mapping[str, int], height: int, wall: float) -> str:
    by_name = {lane.build.image: lane for lane in lanes}
    hot = {(a.build.image, b.build.image) for a, b in pairwise(path)}
    drawn = []
    for lane in lanes:
        befores = [name for name in lane.build.parents if name in by_name]
        befores += [a for a, b in hot if b == lane.build.image and a not in befores]
        for before in befores:
            x1, x2 = (100 * by_name[before].ended / wall, 100 * lane.began / wall)
            y1, y2 = tops[before] + 15, tops[lane.build.image] + 15
            critical = ' class="critical"' if (before, lane.build.image) in hot else ""
            drawn.append((bool(critical), f'<path{critical} d="M{x1:.2f} {y1}V{y2}H{x2:.2f}"/>'))
    paths = "".join(path for _, path in sorted(drawn))
    return (
        f'<svg class="links" aria-hidden="true" viewBox="0 0 100 {height}" preserveAspectRatio="none" '
        f'style="height:{height}px">{paths}</svg>'
    )


def _axis(wall: float) -> str:
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600) if wall / s <= 9), 7200)
    marks = [n * step for n in range(int(wall / step) + 1) if wall - n * step > step * 0.4 or not n]
    ticks = "".join(f'<span style="left:{100 * at / wall:.2f}%">{at:g} s</span>' for at in marks)
    end = f'<span class="end" style="left:100%">{escape(seconds_text(wall))}</span>'
    return f'<div class="axis" aria-hidden="true"><div></div><div>{ticks}{end}</div></div>'


def _path(path: Sequence[Link]) -> str:
    items: list[str] = []
    for link in path:
        if link.after in _AFTER and items:
            items.append(f'<li class="arrow">→ {_AFTER[link.after]}</li>')
        items.append(f"<li>{escape(link.build.image)} <b>{escape(seconds_text(link.build.seconds))}</b></li>")
    return "".join(items)


def _steps_table(lanes: Sequence[Lane]) -> str:
    rows = [
        [
            escape(lane.build.image),
            step_name(step.name),
            number("cached" if step.cached else seconds_text(step.seconds)),
            escape(step.error or step.why),
        ]
        for lane in lanes
        for step in lane.build.steps
        if step.work or step.seconds >= 0.05
    ]
    return details(f"All {len(rows)} steps of this run", table(["Image", "Step", "#Time", "Why it was executed"], rows))


def _began(step: StepRecord) -> float:
    return step.started or 0.0


def _kind(step: StepRecord) -> str:
    return "failed" if step.error else "executed" if step.number else "export"
