"""What did the builds do? ``build_report``: one page to look at, and Markdown for a pull request."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from doit_images.core.base.files import write as write_file
from doit_images.core.base.formatting import cell, seconds_text, size_text
from doit_images.core.history.store import Build, History, Status
from doit_images.core.run import Run
from doit_images.stack.layers import parts_of, together
from doit_images.ui.html import when
from doit_images.ui.report_page import Shown, page, tests_words
from doit_images.ui.statistics import critical_path, latest_layers

BUILDS = 1000
"""How many of the stored builds the report looks at."""


def make(run: Run) -> None:
    """Write the report of the current project, and say where it is."""
    folder = write(run.folder / "report", run.history, run.project.name)
    print(f"report: {folder / 'index.html'}, report.md beside it", file=sys.stderr)


def write(folder: Path, history: History, project: str) -> Path:
    """Write both files into ``folder`` and return it. Raises ``UserError`` if the history cannot be read."""
    shown = Shown(project, history.last_run(), history.recent(limit=BUILDS), time.time())
    write_file(folder / "index.html", page(shown))
    write_file(folder / "report.md", markdown(shown))
    return folder


def markdown(shown: Shown) -> str:
    """The last run as Markdown, for a pull request."""
    if not shown.last:
        return f"## Builds of {cell(shown.project)}\n\nNothing was built yet.\n"
    run = shown.run
    lines = [
        f"## Builds of {cell(shown.project)}, {when(run.started)}",
        "",
        f"{seconds_text(run.wall)} wall time for {seconds_text(run.work)} of work; {_cached(shown)}.",
        "",
        "| image | action | time | cached steps | size | why |",
        "|---|---|--:|--:|--:|---|",
        *map(_row, shown.last),
        "",
    ]
    path = [f"{cell(build.image)} ({seconds_text(build.seconds)})" for build in critical_path(shown.last)]
    lines += [f"**Critical path:** {' → '.join(path)}", ""]
    if shown.tests:
        lines += [f"**Tests:** {shown.tests.run} run, {tests_words(shown.tests)}.", ""]
    if images := latest_layers(shown.builds).values():
        alone = sum(layer.size for layers in images for layer in layers)
        on_disk = together(map(parts_of, images))
        lines += [f"**Images:** {size_text(alone)} one by one, {size_text(on_disk)} on the disk.", ""]
    return "\n".join(lines)


def _cached(shown: Shown) -> str:
    if not shown.run.steps:
        return "no step was looked at"
    saved = f", which saved about {seconds_text(shown.saved)}" if shown.saved else ""
    return f"{shown.run.cached} of {shown.run.steps} steps came from the cache{saved}"


def _row(build: Build) -> str:
    action = build.outcome if build.status == Status.DONE else f"**{build.outcome}**"
    cached = f"{build.cached_steps} of {build.work_steps}" if build.work_steps else "–"
    size = size_text(build.size) if build.size else "–"
    cells: Sequence[str] = (build.image, action, seconds_text(build.seconds), cached, size, "; ".join(build.reasons))
    return f"| {' | '.join(map(cell, cells))} |"
