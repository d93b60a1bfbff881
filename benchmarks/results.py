"""Keep the figures of a benchmark beside its script: ``X.json`` for programs, ``X.md`` for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure


@dataclass
class Results:
    """The rows that one script measures, each with what its target is and whether it was met."""

    script: Path
    title: str
    about: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=measure.machine)

    def add(self, what: str, value: float, unit: str, at_most: float, note: str = "") -> None:
        """One figure and its target (a figure at most so large)."""
        met = value <= at_most
        self.rows.append(
            {"what": what, "value": round(value, 3), "unit": unit, "at_most": at_most, "met": met, "note": note}
        )
        print(
            f"{'ok    ' if met else 'MISSED'} {what}: {value:.3f} {unit} (at most {at_most:g}) {note}", file=sys.stderr
        )

    def timed(self, case: str, timings: Mapping[str, measure.Timing]) -> None:
        """All timings of one case."""
        self.timings[case] = {name: _as_json(timing) for name, timing in timings.items()}

    def write(self) -> None:
        """Write both files and print the tables; what another part of the script measured before is kept."""
        kept = self.script.with_suffix(".json")
        before = json.loads(kept.read_text()) if kept.exists() else {"rows": [], "timings": {}}
        measured = {row["what"] for row in self.rows}
        self.rows[:0] = [row for row in before["rows"] if row["what"] not in measured]
        self.timings = {**before["timings"], **self.timings}
        content = {"title": self.title, "machine": self.machine, "rows": self.rows, "timings": self.timings}
        kept.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        text = self.markdown()
        self.script.with_suffix(".md").write_text(text)
        print(text)

    def markdown(self) -> str:
        """The tables as Markdown."""
        goals = [
            [
                row["what"],
                f"{row['value']:g} {row['unit']}",
                f"≤ {row['at_most']:g}",
                "yes" if row["met"] else "**no**",
                row["note"],
            ]
            for row in self.rows
        ]
        times = [
            [case, name, *_median_and_range(one), str(one["runs"])]
            for case, timings in self.timings.items()
            for name, one in timings.items()
        ]
        return "\n".join(
            [
                f"# {self.title}",
                "",
                self.about.strip(),
                "",
                f"`.venv/bin/python benchmarks/{self.script.name}` wrote this on {measure.in_words(self.machine)}.",
                "",
                *_table(["what", "measured", "target", "met", ""], goals),
                "",
                *_table(["case", "command", "median", "fastest – slowest", "runs"], times),
                "",
            ]
        )


def seconds(value: float) -> str:
    """A time for a note; infinity is that of what does not finish.

    >>> seconds(0.25), seconds(float("inf"))
    ('0.25 s', 'does not finish')
    """
    return f"{value:.2f} s" if math.isfinite(value) else "does not finish"


def _as_json(timing: measure.Timing) -> dict[str, Any]:
    broke = sum(math.isinf(one) for one in timing.seconds)
    return {"median": None, "broke": broke, "runs": len(timing.seconds)} if broke else timing.as_json()


def _median_and_range(one: Mapping[str, Any]) -> tuple[str, str]:
    if one["median"] is None:
        return "does not finish", f"{one['broke']} of {one['runs']} runs broke off"
    return f"{one['median']:.3f} s", f"{one['min']:.3f} – {one['max']:.3f} s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def say(line: str) -> None:
    """Progress, for whoever waits."""
    print(line, file=sys.stderr, flush=True)
