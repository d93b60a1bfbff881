"""Keep the figures of a benchmark beside its script: ``X.json`` for programs, ``X.md`` for people.

Each figure names its run: when, at which commit, on which machine. A script that measures only a part keeps the other
figures with the runs that they are of; one that is older than the code it measures is marked (``age.py``).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import age, measure
from benchmarks.newer_engine import HERE


@dataclass
class Results:
    """The rows that one script measures, each with what its target is and whether it was met. What was measured when a
    block ends is kept, also when it ends by an error."""

    script: Path
    title: str
    about: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=measure.machine)
    _machines: dict[str, Any] = field(default_factory=dict)
    _with: str = ""
    _ended: bool = False

    def on(self, engine: str, environ: Mapping[str, str]) -> None:
        """What follows is measured with the engine, buildx and Compose of this environment. ``engine`` is the value of
        ``newer_engine.option``: figures of another than this machine's have names of their own."""
        self._machines[self.run] = self.machine
        self.machine = measure.machine(environ)
        self._with = "" if engine == HERE else f", engine and peers of Debian {engine}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rows or self.timings:
            self.write()
        self._ended = True

    def measured(self, case: str, commands: Mapping[str, Callable[[], float]], repeat: int) -> dict[str, float]:
        """Measure these commands in turns once the machine is quiet; the median of each in seconds."""
        load = measure.wait_until_quiet(say)
        times = measure.in_turns(commands, repeat, say)
        self.timed(case, times, load)
        return {name: timing.median for name, timing in times.items()}

    def timed(self, case: str, times: Mapping[str, measure.Timing], load: float) -> None:
        """All timings of one case, and the load of the machine when they began."""
        commands = {name: _as_json(timing) for name, timing in times.items()}
        self.timings[case + self._with] = {"run": self.run, "load": round(load, 2), "commands": commands}

    def add(self, what: str, value: float, unit: str, at_most: float, note: str = "") -> None:
        """One figure and its target (a figure at most so large). ``RuntimeError`` after the block: it would be lost."""
        if self._ended:
            raise RuntimeError(f"{what} was measured, and is not kept: the block of its results has ended")
        what, met = what + self._with, value <= at_most
        row = {"what": what, "value": round(value, 3), "unit": unit, "at_most": at_most, "met": met, "note": note}
        self.rows.append({**row, "run": self.run})
        say(f"{'ok    ' if met else 'MISSED'} {what}: {value:.3f} {unit} (at most {at_most:g}) {note}")

    @property
    def run(self) -> str:
        """What the figures of this run are known by: the time, and the commit."""
        return f"{self.machine['date']}, {self.machine['commit']}".removesuffix(", ")

    def write(self) -> None:
        """Write both files and print the tables; what another part of the script measured before is kept."""
        kept = self.script.with_suffix(".json")
        before = json.loads(kept.read_text()) if kept.exists() else {"runs": {}, "rows": [], "timings": {}}
        measured = {row["what"] for row in self.rows}
        rows = [row for row in before["rows"] if row["what"] not in measured] + self.rows
        timings = {**before["timings"], **self.timings}
        named = {one["run"] for one in (*rows, *timings.values())}
        known = {**before["runs"], **self._machines, self.run: self.machine}
        runs = {name: facts for name, facts in known.items() if name in named}
        content = {"title": self.title, "about": self.about.strip(), "runs": runs, "rows": rows, "timings": timings}
        kept.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        text = markdown(content, self.script.name)
        self.script.with_suffix(".md").write_text(text)
        print(text)


def markdown(content: Mapping[str, Any], script: str) -> str:
    """The tables of a benchmark's figures, as it left them in ``X.json``."""
    older = age.older_runs(script.removesuffix(".py"), content["runs"])
    goals = [
        [
            row["what"],
            f"{row['value']:g} {row['unit']}",
            f"≤ {row['at_most']:g}",
            "yes" if row["met"] else "**no**",
            row["note"],
            row["run"],
        ]
        for row in content["rows"]
    ]
    times = [
        [case, name, *_median_and_range(one), str(one["runs"]), timed["run"]]
        for case, timed in content["timings"].items()
        for name, one in timed["commands"].items()
    ]
    return "\n".join(
        [
            f"# {content['title']}",
            "",
            content["about"],
            "",
            f"`.venv/bin/python benchmarks/{script}` wrote this, in these runs:",
            "",
            *(f"- {measure.in_words(facts)}{age.OLDER * (name in older)}" for name, facts in content["runs"].items()),
            "",
            *_table(["what", "measured", "target", "met", "", "run"], goals),
            "",
            *_table(["case", "command", "median", "fastest – slowest", "rounds", "run"], times),
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
