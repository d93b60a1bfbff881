"""Is the optimized way as much better as the guide says, and as we want? Pure: measurements in, rows with verdicts out.

What the guide promises of the standard way, and what we want beside it and beside the way that Docker's documentation
teaches, stands in ``guide.toml``. A row without a goal is for information.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.replay import Replay
from benchmarks.scenarios import REBUILDS, Case, total
from doit_images.core.base.formatting import cell, size_text
from doit_images.ui.html import render

_GUIDE = Path(__file__).with_name("guide.toml")
TABLES = {"time": "Build time", "size": "Image size", "cache": "Cache hits"}
COLUMNS = {
    "standard": "as the guide has it: one stage, compilers inside, code before requirements",
    "documented": "as Docker and uv document it: several stages, locks first, cache mounts, a slim base, no compilers; "
    "what we judge ourselves by",
    "optimized": "ours",
}
_WHAT = {
    "time": "Medians (and the fastest and slowest) of repeated builds of the same copy of the project, the ways in "
    "turns, each in an engine of its own. The guide compares rebuilds with a warm cache to standard builds; so do the "
    "rows with a goal beside standard.",
    "size": "Bytes of each image as the engine reports them, just built from the same locks.",
    "cache": "Edits applied one by one, both ways built after each. A step counts as reused if its image was not "
    "built, or BuildKit took it from its cache; the improvement of that row is the share itself.",
}


@dataclass(frozen=True)
class Row:
    """One line of a table. ``improvement`` is a share (of time or bytes saved, of steps reused); ``guide`` what the
    guide promises, ``goal`` what we want (None: nothing). ``documented`` is the figure of the way that Docker's
    documentation teaches, and ``at_most`` the part of it that ours may be. ``unit`` is of these figures: s, bytes,
    share or images. ``note`` says what was measured, and why where a goal was missed; ``spread`` the fastest and the
    slowest of each way."""

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
    documented: float | None = None
    at_most: float | None = None
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached; None without a goal."""
        return None if self.goal is None else self.improvement >= self.goal

    @property
    def ratio(self) -> float | None:
        """How many times what the documented way has we have; None where that was not measured."""
        return self.optimized / self.documented if self.documented else None

    @property
    def met_documented(self) -> bool | None:
        """Whether that is as little as we want; None without a goal."""
        return None if self.at_most is None or self.ratio is None else self.ratio <= self.at_most

    def as_json(self) -> dict[str, Any]:
        """The row in the promised form."""
        digits = {"s": 3, "bytes": 0, "share": 4, "images": 0}[self.unit]
        rounded = {name: round(getattr(self, name), digits) for name in ("standard", "optimized")}
        if self.documented is not None:
            rounded["documented"] = round(self.documented, digits)
        rounded["spread"] = {way: [round(one, digits) for one in both] for way, both in self.spread.items()}
        told = {"improvement": round(self.improvement, 4), "met": self.met, "met_documented": self.met_documented}
        return {**asdict(self), **rounded, **told, "ratio": None if self.ratio is None else round(self.ratio, 3)}


Sizes = Mapping[str, Mapping[str, int]]
"""Bytes of each image (or of all together on one disk), by way."""


def rows(cases: Sequence[Case], sizes: Sizes, disk: Mapping[str, int], replay: Replay) -> list[Row]:
    """All rows: build times from ``cases``, bytes by image from ``sizes`` and of all together on one ``disk``, reuse
    from ``replay``."""
    guide = tomllib.loads(_GUIDE.read_text())
    return [*_times(cases, guide), *_sizes(sizes, disk, guide), *_cache(replay, guide["reuse"])]


def _times(cases: Sequence[Case], guide: Mapping[str, Any]) -> list[Row]:
    found, documented = [], guide["documented"]
    changes = [one for one in cases if one.scenario in REBUILDS]
    if changes:
        note = f"sum of the {len(changes)} rebuilds: " + ", ".join(_label(one) for one in changes)
        found.append(_time("total of all rebuilds", total(cases, REBUILDS), note, **guide["rebuilds"]))
    for image in dict.fromkeys(one.image for one in cases if one.scenario == "code"):
        note = "its rebuilds after a change of code and of dependencies, together"
        pair = total(cases, ("code", "dependency"), image)
        found.append(_time(f"{image}: rebuild", pair, note, **guide["service"]))
    for kind, words in (("code", "after a code change"), ("dependency", "after a change of dependencies")):
        found += _mean_of_services(kind, words, cases, guide)
    for one in cases:
        if one.scenario in ("cold", "nothing", "base", "system"):
            seconds = {way: timing.median for way, timing in one.timings.items()}
            spread = {way: (min(timing.seconds), max(timing.seconds)) for way, timing in one.timings.items()}
            goal = {"at_most": documented.get(one.scenario)}
            found.append(replace(_time(_label(one), seconds, one.what, **goal), spread=spread))
    return found


def _mean_of_services(kind: str, words: str, cases: Sequence[Case], guide: Mapping[str, Any]) -> list[Row]:
    """The mean over all services of one kind of change, and for code also against one bare build."""
    those = [one for one in cases if one.scenario == kind]
    if not those:
        return []
    spent = "; ".join(dict.fromkeys(step for one in those for step in one.longest[:2]))
    note = f"one line, mean over {len(those)} services; spent in: {spent}"
    seconds = {way: value / len(those) for way, value in total(cases, (kind,)).items()}
    goal = guide["documented"][kind]
    if "plain" not in seconds:
        return [_time(words, seconds, note, **guide.get(kind, {}), at_most=goal)]
    bare = seconds | {"documented": seconds["plain"]}
    against = f"{words}, against one bare build of the documented Dockerfile"
    return [_time(words, seconds, note, **guide.get(kind, {})), _time(against, bare, note, at_most=goal)]


def _time(metric: str, seconds: Mapping[str, float], note: str, **promised: Any) -> Row:
    standard, optimized = seconds["standard"], seconds["optimized"]
    saved = 1 - optimized / standard
    return Row(
        "time", metric, "s", standard, optimized, saved, note=note, documented=seconds.get("documented"), **promised
    )


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


def _sizes(sizes: Sizes, disk: Mapping[str, int], guide: Mapping[str, Any]) -> list[Row]:
    if not sizes:
        return []
    whole = {way: sum(one[way] for one in sizes.values()) for way in next(iter(sizes.values()))}
    every = {"all images, one by one": whole, **{f"{name}: size": one for name, one in sizes.items()}}
    promised = {**guide["size"], "at_most": guide["documented"]["size"]}
    note = "what images share is stored once; the optimized figure includes the bases"
    return [
        *(_size(name, one, **promised) for name, one in every.items()),
        _size("all images on one disk", disk, note=note),
    ]


def _size(metric: str, bytes_: Mapping[str, int], **promised: Any) -> Row:
    one, other = bytes_["standard"], bytes_["optimized"]
    return Row("size", metric, "bytes", one, other, 1 - other / one, documented=bytes_.get("documented"), **promised)


def _cache(replay: Replay, promised: Mapping[str, Any]) -> list[Row]:
    if not replay.applied:
        return []
    count = len(replay.applied)
    ours, theirs = replay.hit_rate("optimized"), replay.hit_rate("standard")
    built, other = replay.images("optimized"), replay.images("standard")
    counts = f"{replay.needed} were needed as BuildKit judges, {len(replay.missed)} missed"
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


_HEADS = ("standard", "documented", "optimized", "against standard", "guide", "goal", "", "× documented", "goal", "")


def markdown(found: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The three tables for a README or a pull request."""
    lines = [f"- {name}: {text}" for name, text in COLUMNS.items()]
    for kind, title in TABLES.items():
        lines += ["", f"### {title}", "", _WHAT[kind], ""]
        lines += [f"| | {' | '.join(_HEADS)} |", "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|---|"]
        for row in (row for row in found if row.table == kind):
            lines.append(f"| {' | '.join(map(cell, (row.metric, *cells(row))))} |")
        notes = [f"- {row.metric}: {row.note}" for row in found if row.table == kind and row.note]
        lines += ["", *notes]
    return "\n".join([*lines, "", f"Measured on {measure.in_words(machine)}.", ""])


def page(found: Sequence[Row], machine: Mapping[str, Any], project: str) -> str:
    """The tables that have rows as one HTML page, in the style of the build report. The bars of each row have a scale
    of their own."""
    verdicts = [one for row in found for one in (row.met, row.met_documented) if one is not None]
    return render(
        Path(__file__).with_name("comparison.html"),
        figures=cells,
        bars=_bars,
        title=f"Ways of building compared: {project}",
        when=f"{sum(verdicts)} of {len(verdicts)} goals reached",
        sections=[(kind, title) for kind, title in TABLES.items() if any(row.table == kind for row in found)],
        columns=[(kind, way, COLUMNS[way]) for kind, way in _BARS.items()],
        heads=["", "", *(f"#{head}" if head else "" for head in _HEADS)],
        about=_WHAT,
        tables={kind: [row for row in found if row.table == kind] for kind in TABLES},
        footer=f"Measured on {measure.in_words(machine)}.",
    )


_BARS = {"slot": "standard", "shared": "documented", "executed": "optimized"}
"""How each way is drawn: a class of the page's styles."""


def _bars(row: Row) -> list[tuple[str, float]]:
    """What is drawn of a row: the class of each bar, and its part of the longest."""
    values = {kind: value for kind, way in _BARS.items() if (value := getattr(row, way)) is not None}
    longest = max(values.values()) or 1.0
    return [(kind, value / longest) for kind, value in values.items()]


def cells(row: Row) -> tuple[str, ...]:
    """All cells of a row behind its name."""
    values = [_with_spread(row, way) for way in ("standard", "documented", "optimized")]
    guide = row.guide_says or ("" if row.guide is None else f"{row.guide:.0%}")
    goal = "" if row.goal is None else f"{row.goal:.0%}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} ×"
    at_most = "" if row.at_most is None or row.ratio is None else f"≤ {row.at_most:g} ×"
    return (*values, f"{row.improvement:.1%}", guide, goal, verdict(row), ratio, at_most, _said(row.met_documented))


def _said(met: bool | None) -> str:
    return {True: "reached", False: "missed", None: ""}[met]


def _with_spread(row: Row, way: str) -> str:
    value = getattr(row, way)
    if value is None:
        return ""
    between = row.spread.get(way)
    return figure(row, value) + (f" ({between[0]:.2f} – {between[1]:.2f})" if between else "")
