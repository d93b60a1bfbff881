"""Put the kept figures into the README: run it after the benchmarks.

    .venv/bin/doit compare_performance --json > benchmarks/compare_performance.json
    .venv/bin/python benchmarks/nothing_changed.py        (and the others)
    .venv/bin/python benchmarks/readme.py

A test holds the README and the files beside this script together.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BLOCK = re.compile(r"(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)


def block(folder: Path = HERE) -> str:
    """The tables, from the JSON files that the benchmarks left in ``folder``."""
    parts = []
    comparison = folder / "compare_performance.json"
    if comparison.exists():
        parts.append("\n".join(_comparison(json.loads(comparison.read_text()))))
    results = [json.loads(path.read_text()) | {"script": path.stem} for path in sorted(folder.glob("*.json"))]
    rows = [row for one in results if "timings" in one for row in _rows(one)]
    if rows:
        head = ["| against its peer | measured | target | |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"


def _comparison(found: dict[str, Any]) -> Iterator[str]:
    yield "| standard against optimized | standard | optimized | better by | guide | goal | |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for row in found["rows"]:
        cells = [row["metric"], *(_number(row[key], row["unit"]) for key in ("standard", "optimized"))]
        cells += [_percent(row[key]) for key in ("improvement", "guide", "goal")]
        yield f"| {' | '.join(cells)} | {_verdict(row['met'])} |"


def _rows(one: dict[str, Any]) -> Iterator[str]:
    for row in one["rows"]:
        script = f"[{row['what']}](benchmarks/{one['script']}.md)"
        note = f"{_verdict(row['met'])}; {row['note']}" if row["note"] else _verdict(row["met"])
        yield f"| {script} | {row['value']:.4g} {row['unit']} | ≤ {row['at_most']:g} | {note} |"


def _number(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    return f"{100 * value:.0f} %" if unit == "share" else f"{value:.3g} {unit}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: ""}[met]


def main() -> None:
    """Write the README anew."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    README.write_text(BLOCK.sub(lambda found: found[1] + block() + found[2], README.read_text()))


if __name__ == "__main__":
    main()
