"""Put the kept figures into benchmarks/README.md, what we are judged by into the README, and a picture of it beside
that: run it after the benchmarks.

    .venv/bin/python benchmarks/readme.py

``doit figures`` measures what is older than its code, and does this too. A test holds both pages and the files beside
this script together.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.age import older_runs
from benchmarks.measure import in_words
from benchmarks.picture import WAYS, number, picture

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
EVERY = HERE / "README.md"
PICTURE = HERE.parent / "docs/pictures/comparison.svg"
_SHOWN = "![Build times and image sizes of three ways: standard, documented, optimized](docs/pictures/comparison.svg)"
_OLDER = " †"
_LEGEND = "† is older than the code that it measures. Each file says when, of which commit and on what it was measured."
BLOCK = re.compile(r"(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)


_ABOUT = """\
# All figures

Each script here measures one question, against a peer in the same run, and leaves what it found beside itself: `X.json`
for programs, `X.md` for people. `doit figures` measures again what is older than its code. What is compared, and
what misses its goal, is told in [what_is_compared.md](what_is_compared.md).
"""


_PEERS = ["| against its peer | measured | target | | of |", "|---|---|---|---|---|"]


def judged() -> str:
    """The picture, and the rows of the comparison that have a goal against what Docker's documentation teaches."""
    comparison = json.loads((HERE / "compare_performance.json").read_text())
    rows = [row for row in comparison["rows"] if row.get("at_most") is not None]
    when = _when(comparison, "compare_performance")
    return "\n".join([_SHOWN, "", *_ratios(rows), "", when, ""])


def _kept(folder: Path) -> list[dict[str, Any]]:
    """What the benchmarks kept that measure against a peer of their own."""
    kept = (json.loads(path.read_text()) | {"script": path.stem} for path in sorted(folder.glob("*.json")))
    return [one for one in kept if "timings" in one]


def _ratios(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| | standard | documented | optimized | × documented | goal | |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for row in rows:
        cells = [row["metric"], *_ways(row), f"{row['ratio']:.2f}", f"≤ {row['at_most']:g}"]
        yield f"| {' | '.join(cells)} | {_verdict(row.get('met_documented'))} |"


def every(folder: Path = HERE) -> str:
    """All tables, from the JSON files that the benchmarks left in ``folder``. A figure that is older than the code that
    it measures is marked, as of the commit that is checked out."""
    parts = [_ABOUT.rstrip()]
    parts += ["\n".join(_comparison(path)) for path in sorted(folder.glob("compare_performance*.json"))]
    rows = [row for one in _kept(folder) for row in _rows(one)]
    if rows:
        parts += ["\n".join([*_PEERS, *rows]), _LEGEND]
    return "\n\n".join(parts) + "\n"


def without_age(text: str) -> str:
    """The text without the marks of what is older than its code: these move with each commit."""
    return text.replace(_OLDER, "")


def unmarked() -> Iterator[str]:
    """The lines of both READMEs that show a figure as if it were of today's code, as they would be with its mark."""
    for path, text in ((README, judged()), (EVERY, every())):
        shown = path.read_text().splitlines()
        yield from (f"{path.parent.name}/{path.name}: {line}" for line in text.splitlines() if _lacks_mark(line, shown))


def _lacks_mark(line: str, shown: Sequence[str]) -> bool:
    return _OLDER in line and line not in shown


def _comparison(path: Path) -> Iterator[str]:
    """All rows of a kept comparison, with fastest and slowest round, what is noted of them, the machine."""
    found = json.loads(path.read_text())
    machine = found["machine"]
    yield f"With Engine {machine['engine']}, buildx {machine['buildx']} and Compose {machine['compose']}:"
    yield ""
    yield "| | standard | documented | optimized | better by | guide | goal | | × documented | goal | |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|---|"
    for row in found["rows"]:
        percents = [_percent(row[key]) for key in ("improvement", "guide", "goal")]
        ratio = "" if row.get("ratio") is None else f"{row['ratio']:.2f}"
        at_most = "" if row.get("at_most") is None else f"≤ {row['at_most']:g}"
        cells = [row["metric"], *_ways(row, row.get("spread")), *percents, _verdict(row["met"]), ratio, at_most]
        yield f"| {' | '.join(cells)} | {_verdict(row.get('met_documented'))} |"
    yield ""
    yield from (f"- {row['metric']}: {row['note']}" for row in found["rows"] if row["note"])
    yield ""
    yield f"{_when(found, path.stem)} {in_words(machine)}"


def _ways(row: dict[str, Any], spread: dict[str, list[float]] | None = None) -> list[str]:
    """What each way took, with its fastest and slowest round where these are known."""
    said = {way: "" if row.get(way) is None else number(row[way], row["unit"]) for way in WAYS}
    return [
        text + (" ({:.3g} – {:.3g})".format(*spread[way]) if spread and way in spread else "")
        for way, text in said.items()
    ]


def _when(found: dict[str, Any], script: str) -> str:
    run = f"{found['machine']['date']}, {found['machine']['commit']}"
    rounds = max((one["optimized"]["runs"] for one in found["cases"]), default=0)
    how = "One round" if rounds == 1 else f"Medians of {rounds} rounds"
    return f"{how}, {run}{_OLDER * bool(older_runs(script, [run]))}."


def _rows(one: dict[str, Any], folder: str = "") -> Iterator[str]:
    older = older_runs(one["script"], (row["run"] for row in one["rows"]))
    for row in one["rows"]:
        script = f"[{row['what']}]({folder}{one['script']}.md)"
        note = f"{_verdict(row['met'])}; {row['note']}" if row["note"] else _verdict(row["met"])
        measured = f"{row['value']:.4g} {row['unit']} | ≤ {row['at_most']:g}"
        day = row["run"].partition(" ")[0]
        yield f"| {script} | {measured} | {note} | {day}{_OLDER * (row['run'] in older)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: ""}[met]


def write() -> None:
    """Write both pages' tables anew, and the picture."""
    PICTURE.write_text(picture(json.loads((HERE / "compare_performance.json").read_text())))
    EVERY.write_text(every())
    README.write_text(BLOCK.sub(lambda found: found[1] + judged() + found[2], README.read_text()))


def main() -> None:
    """Write the README anew, unless it is asked what this is."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write()


if __name__ == "__main__":
    main()
