"""How do the ways of building compare at a glance? A picture of what ``compare_performance`` measured, for the README.

Each row has a scale of its own: what counts is by how much one way is less than another. Where its viewer is dark, the
picture is too; on paper it is light.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doit_images.ui.html import render

WAYS = ("standard", "documented", "optimized")
_TEMPLATE = Path(__file__).with_name("picture.svg")
_TOP, _ROW, _WIDEST = 46, 46, 520


def picture(comparison: Mapping[str, Any]) -> str:
    """The picture of a comparison, as ``compare_performance --json`` prints it: the rows in which all ways were
    measured, but for what single services take."""
    rows = [row for row in comparison["rows"] if row.get("documented") and not row["metric"].endswith(": rebuild")]
    drawn = [{**_drawn(row), "y": _TOP + _ROW * number} for number, row in enumerate(rows)]
    title = "Build times and image sizes of three ways, as benchmarks/compare_performance.json has them"
    return render(_TEMPLATE, ways=WAYS, rows=drawn, height=_TOP + _ROW * len(drawn) + 6, title=title) + "\n"


def number(value: float, unit: str) -> str:
    """A figure of a row for people.

    >>> number(0.5049, "s"), number(141_700_000, "bytes"), number(0.98, "share")
    ('0.505 s', '142 MB', '98 %')
    """
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    return f"{100 * value:.0f} %" if unit == "share" else f"{value:.3g} {unit}"


def _drawn(row: Mapping[str, Any]) -> dict[str, Any]:
    longest = max(row[way] for way in WAYS)
    bars = [
        {"way": way, "width": round(_WIDEST * row[way] / longest, 1), "figure": number(row[way], row["unit"])}
        for way in WAYS
    ]
    # What the README's table says in full.
    short = row["metric"].partition(", which ")[0].removesuffix(" of the documented Dockerfile")
    return {"metric": short, "bars": bars}
