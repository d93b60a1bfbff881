"""Is the optimized way as much better as the guide says, and as we want? Pure: measurements in, rows with verdicts out.

What the guide promises and what we want stands in ``guide.toml``. A row without a goal is for information.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.replay import Replay
from benchmarks.scenarios import REBUILDS, Case, total
from tasks.base.formatting import cell, size_text
from tasks.ui.html import render

_GUIDE = Path(__file__).with_name("guide.toml")
TABLES = {"time": "Build time", "size": "Image size", "cache": "Cache hits"}
_WHAT = {
    "time": "Medians of repeated builds of the same copy of the project, standard and optimized in turns, each in an "
    "engine of its own. The guide compares rebuilds with a warm cache to standard builds; so do the rows with a goal.",
    "size": "Bytes of each image as the engine reports them, just built from the same locks.",
    "cache": "Edits applied one by one, both ways built after each. A step counts as reused if its image was not "
    "built, or BuildKit took it from its cache; the improvement of that row is the share itself.",
}


@dataclass(frozen=True)
class Row:
    """One line of a table. ``improvement`` is a share (of time or bytes saved, of steps reused); ``guide`` what the
    guide promises, ``goal`` what we want (None: nothing). ``unit`` is of ``standard`` and ``optimized``: s, bytes,
    share or images. ``note`` says what was measured, and why where a goal was missed."""

    table: str
    metric: str
    unit: str
    standard: float
    optimized: float
    improvement: float
    guide: float | None = None
    goal: float | None = None
    guide_says: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached; None without a goal."""
        return None if self.goal is None else self.improvement >= self.goal

    def as_json(self) -> dict[str, Any]:
        """The row in the promised form."""
        digits = {"s": 3, "bytes": 0, "share": 4, "images": 0}[self.unit]
        rounded = {name: round(getattr(self, name), digits) for name in ("standard", "optimized")}
        return {**asdict(self), **rounded, "improvement": round(self.improvement, 4), "met": self.met}


def rows(
    cases: Sequence[Case], sizes: Mapping[str, tuple[int, int]], disk: tuple[int, int], replay: Replay
) -> list[Row]:
    """All rows: build times from ``cases``, bytes by image from ``sizes`` (standard, optimized) and of all together on
    one ``disk``, reuse from ``replay``."""
    guide = tomllib.loads(_GUIDE.read_text())
    return [*_times(cases, guide), *_sizes(sizes, disk, guide["size"]), *_cache(replay, guide["reuse"])]


def _times(cases: Sequence[Case], guide: Mapping[str, Any]) -> list[Row]:
    found = []
    changes = [one for one in cases if one.scenario in REBUILDS]
    if changes:
        note = f"sum of the {len(changes)} rebuilds: " + ", ".join(_label(one) for one in changes)
        found.append(_time("total of all rebuilds", *total(cases, REBUILDS), note, guide["rebuilds"]))
    for image in dict.fromkeys(one.image for one in cases if one.scenario == "code"):
        note = "its rebuilds after a change of code and of dependencies, together"
        pair = total(cases, ("code", "dependency"), image)
        found.append(_time(f"{image}: rebuild", *pair, note, guide["service"]))
    code = [one for one in cases if one.scenario == "code"]
    if code:
        spent = "; ".join(dict.fromkeys(step for one in code for step in one.longest[:2]))
        note = f"one line of code, mean over {len(code)} services; spent in: {spent}"
        standard, optimized = (seconds / len(code) for seconds in total(cases, ("code",)))
        found.append(_time("after a code change", standard, optimized, note, guide["code"]))
    for one in cases:
        if one.scenario in ("cold", "nothing", "base", "system"):
            found.append(_time(_label(one), one.standard.median, one.optimized.median, one.what))
    return found


def _time(metric: str, standard: float, optimized: float, note: str, promised: Mapping[str, Any] | None = None) -> Row:
    return Row("time", metric, "s", standard, optimized, 1 - optimized / standard, note=note, **(promised or {}))


def _label(case: Case) -> str:
    words = {
        "cold": "everything, from an empty cache",
        "nothing": "nothing changed",
        "code": f"code of {case.image}",
        "dependency": f"requirements of {case.image}",
        "base": f"requirements of {case.image}, which others build on",
        "system": "the base image under everything changed",
    }
    return words[case.scenario]


def _sizes(sizes: Mapping[str, tuple[int, int]], disk: tuple[int, int], promised: Mapping[str, Any]) -> list[Row]:
    if not sizes:
        return []
    whole = (sum(standard for standard, _ in sizes.values()), sum(optimized for _, optimized in sizes.values()))
    pairs = {"all images, one by one": whole, **{f"{name}: size": pair for name, pair in sizes.items()}}
    found = [
        Row("size", name, "bytes", one, other, 1 - other / one, **promised) for name, (one, other) in pairs.items()
    ]
    note = "what images share is stored once; the optimized figure includes the bases"
    saved = 1 - disk[1] / disk[0]
    return [*found, Row("size", "all images on one disk", "bytes", *disk, saved, note=note)]


def _cache(replay: Replay, promised: Mapping[str, Any]) -> list[Row]:
    if not replay.applied:
        return []
    count = len(replay.applied)
    ours, theirs = replay.hit_rate("optimized"), replay.hit_rate("standard")
    built, other = replay.images("optimized"), replay.images("standard")
    counts = f"{replay.needed} were needed as BuildKit judges, {replay.missed} missed"
    return [
        Row("cache", "steps reused", "share", theirs, ours, ours, note=f"over {count} edits", **promised),
        Row("cache", "images built", "images", other, built, 1 - built / other if other else 0.0, note=counts),
    ]


def as_json(found: Sequence[Row], machine: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The promised form: rows and machine, with what else was measured."""
    return {"rows": [one.as_json() for one in found], "machine": dict(machine), **more}


def verdict(row: Row) -> str:
    """What to think of a row, in a few words."""
    if row.goal is None:
        return ""
    if row.met:
        return "goal reached"
    missed = f"goal missed ({row.goal:.0%})"
    if row.guide is None:
        return missed
    return (
        f"{missed}, the guide's {row.guide:.0%} reached"
        if row.improvement >= row.guide
        else f"{missed}, and the guide's"
    )


def figure(row: Row, value: float) -> str:
    """A value of a row for people."""
    if row.unit == "s":
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    if row.unit == "images":
        return f"{value:.0f}"
    return size_text(value) if row.unit == "bytes" else f"{value:.1%}"


def markdown(found: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The three tables for a README or a pull request."""
    lines = []
    for kind, title in TABLES.items():
        lines += [f"### {title}", "", _WHAT[kind], ""]
        lines += ["| | standard | optimized | improvement | guide | goal | verdict |", "|---|--:|--:|--:|--:|--:|---|"]
        for row in (row for row in found if row.table == kind):
            cells = (row.metric, *_figures(row), verdict(row))
            lines.append(f"| {' | '.join(map(cell, cells))} |")
        notes = [f"- {row.metric}: {row.note}" for row in found if row.table == kind and row.note]
        lines += ["", *notes, ""]
    return "\n".join([*lines, f"Measured on {measure.in_words(machine)}.", ""])


def page(found: Sequence[Row], machine: Mapping[str, Any], project: str) -> str:
    """The three tables as one HTML page, in the style of the build report."""
    goals = [row for row in found if row.goal is not None]
    return render(
        Path(__file__).with_name("comparison.html"),
        {"figures": _figures, "verdict": verdict, "longest": lambda row: max(row.standard, row.optimized)},
        title=f"Standard against optimized: {project}",
        when=f"{sum(bool(row.met) for row in goals)} of {len(goals)} goals reached",
        sections=TABLES.items(),
        about=_WHAT,
        tables={kind: [row for row in found if row.table == kind] for kind in TABLES},
        footer=f"Measured on {measure.in_words(machine)}.",
    )


def _figures(row: Row) -> tuple[str, str, str, str, str]:
    guide = row.guide_says or ("" if row.guide is None else f"{row.guide:.0%}")
    goal = "" if row.goal is None else f"{row.goal:.0%}"
    return figure(row, row.standard), figure(row, row.optimized), f"{row.improvement:.1%}", guide, goal
