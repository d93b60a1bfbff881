"""How does the report look as one HTML page?

Everything is drawn here as plain HTML, so that it reads without a script and prints; ``report.html`` holds the
frame, the style and the little script for hints, arrow keys and colours. No text reaches the page unescaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from tasks.base.formatting import seconds_text, size_text
from tasks.engine.layers import Disk, Layer, parts_of
from tasks.history.statistics import (
    Cause,
    PastRun,
    StepHistory,
    causes,
    latest_layers,
    runs,
    saved_seconds,
    step_histories,
)
from tasks.history.store import Build, Status, StepKey
from tasks.ui.markup import details, legend, number, prose, step_name, table, tip
from tasks.ui.report_timeline import draw_timeline

TEMPLATE = Path(__file__).with_name("report.html")
_RUNS, _BUILDS, _CAUSES = 30, 25, 20


@dataclass(frozen=True)
class Shown:
    """What the page tells about: the last run, and the stored builds, newest first."""

    project: str
    last: Sequence[Build]
    builds: Sequence[Build]
    made: float


def page(shown: Shown) -> str:
    """The whole page."""
    title = f"Builds of {shown.project}"
    parts = _sections(shown) if shown.last else {}
    main = "\n".join(f'<section id="{key}">{body}</section>' for key, (_, body) in parts.items() if body)
    values = {
        "title": escape(title),
        "when": f"last run {escape(when(min(b.started for b in shown.last)))}" if shown.last else "",
        "nav": " ".join(f'<a href="#{key}">{escape(name)}</a>' for key, (name, body) in parts.items() if body),
        "main": (_tiles(shown) + main) if shown.last else "<section><p>Nothing was built yet.</p></section>",
        "footer": f"Made {escape(when(shown.made))} from {len(shown.builds)} stored builds.",
    }
    text = TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def when(at: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _sections(shown: Shown) -> dict[str, tuple[str, str]]:
    histories = step_histories(shown.builds)
    return {
        "timeline": ("Timeline", draw_timeline(shown.last)),
        "cache": ("Cache hits", _cache(histories)),
        "sizes": ("Sizes", _sizes(latest_layers(shown.builds))),
        "trend": ("Trend", _trend(runs(shown.builds)[-_RUNS:])),
        "causes": ("Causes", _causes(causes(shown.builds)[:_CAUSES])),
        "builds": ("Builds", _builds(shown.builds[:_BUILDS])),
    }


def _tiles(shown: Shown) -> str:
    run = runs(shown.last)[-1]
    saved = saved_seconds(shown.last, step_histories(shown.builds))
    facts = [
        (seconds_text(run.wall), f"wall time of the last run, {seconds_text(run.work)} of work"),
        (str(run.built), f"built, {run.other} retagged or pulled" if run.other else "images built"),
        ("–" if run.hit_rate is None else f"{run.hit_rate:.0%}", f"of {run.steps} steps from the cache"),
    ]
    facts += [(seconds_text(saved), "saved: what cached steps take when executed")] if saved else []
    if run.failed:
        facts.insert(2, (str(run.failed), "not finished"))
    return f'<ul class="tiles">{"".join(f"<li><b>{escape(b)}</b><span>{escape(s)}</span></li>" for b, s in facts)}</ul>'


def _cache(histories: Mapping[str, Mapping[StepKey, StepHistory]]) -> str:
    if not histories:
        return ""
    body = "".join(_cache_of(image, steps.values()) for image, steps in histories.items())
    marks = legend(
        [("cached", "from the cache"), ("executed", "executed"), ("failed", "failed"), ("absent", "not there")]
    )
    return f"""<h2>Cache hits by step</h2>
<p class="note">Each square is one build, the latest on the right. A step whose squares are mostly blue, and that takes
long, is worth moving below what changes less often.</p>{marks}{body}"""


def _cache_of(image: str, steps: Iterable[StepHistory]) -> str:
    rows = []
    for step in steps:
        squares = "".join(f'<i class="{outcome or "absent"}"></i>' for outcome in step.outcomes)
        rows.append(
            [
                step_name(step.last.name),
                f'<span class="strip" aria-hidden="true">{squares}</span>',
                number(f"{step.hits} of {step.seen}"),
                number("–" if step.usual_seconds is None else seconds_text(step.usual_seconds)),
            ]
        )
    return f"<h3>{escape(image)}</h3>" + table(["Step", "Builds", "#Cached", "#Takes"], rows)


def _sizes(images: Mapping[str, Sequence[Layer]]) -> str:
    if not images:
        return ""
    disk = Disk({image: parts_of(layers) for image, layers in images.items()})
    totals = {image: sum(layer.size for layer in layers) for image, layers in images.items()}
    largest = max(totals.values()) or 1
    rows = "".join(_size(image, layers, disk, totals[image], largest) for image, layers in images.items())
    layers = [
        [
            escape(image),
            number(str(place)),
            f"<code>{escape(layer.digest[:19])}</code>",
            number(size_text(layer.size)),
            escape(", ".join(name for name in disk.users(layer.chain) if name != image) or "–"),
        ]
        for image, some in images.items()
        for place, layer in enumerate(some, 1)
    ]
    all_layers = table(["Image", "#Layer", "Content", "#Size", "Also in"], layers)
    return f"""<h2>Image sizes by layer</h2>
<p class="note">{escape(size_text(sum(totals.values())))} counted one by one, {escape(size_text(disk.together))} on the
disk, because layers that several images hold are stored once.</p>
{legend([("executed", "only in this image"), ("shared", "shared with others")])}
<div class="sizes" data-rove role="group" aria-label="Image sizes">{rows}</div>
{details(f"All {len(layers)} layers", all_layers)}"""


def _size(image: str, layers: Sequence[Layer], disk: Disk, total: int, largest: int) -> str:
    stack = "".join(
        f'<button type="button" class="{"shared" if len(disk.users(layer.chain)) > 1 else "executed"}" '
        f'style="flex:{layer.size} 1 0" {tip(_layer_words(place, layer.size, disk.users(layer.chain)))}></button>'
        for place, layer in enumerate(layers, 1)
        if layer.size
    )
    facts = f"{size_text(total)}, {size_text(disk.unique(image))} its own"
    return (
        f'<div class="name">{escape(image)}</div>'
        f'<div><div class="stack" style="width:{100 * total / largest:.2f}%">{stack}</div></div>'
        f'<div class="muted">{escape(facts)}</div>'
    )


def _layer_words(place: int, size: int, images: Sequence[str]) -> str:
    shared = f", shared by {', '.join(images)}" if len(images) > 1 else ""
    return f"layer {place}: {size_text(size)}{shared}"


def _trend(shown: Sequence[PastRun]) -> str:
    if len(shown) < 2:
        return ""
    longest = max(run.wall for run in shown) or 1.0
    walls = [(100 * run.wall / longest, "failed" if run.failed else "executed", f"{_run_words(run)}") for run in shown]
    hits = [(100 * (run.hit_rate or 0.0), "cached", _run_words(run)) for run in shown if run.hit_rate is not None]
    return f"""<h2>Trend over the last {len(shown)} runs</h2>
<p class="note">The oldest on the left. Hints on each column say what the run did.</p>
<div class="pair"><div><h3>Wall time</h3>{_chart(walls, seconds_text(longest), "0 s", "Wall time of each run")}</div>
<div><h3>Steps from the cache</h3>{_chart(hits, "100%", "0%", "Share of cached steps in each run")}</div></div>"""


def _run_words(run: PastRun) -> str:
    rate = "" if run.hit_rate is None else f", {run.cached} of {run.steps} steps cached"
    bad = f", {run.failed} not finished" if run.failed else ""
    return f"{when(run.started)}: {seconds_text(run.wall)}, {run.built} built{bad}{rate}"


def _chart(columns: Sequence[tuple[float, str, str]], top: str, bottom: str, label: str) -> str:
    bars = "".join(
        f'<button type="button" class="{kind}" style="height:{height:.1f}%" {tip(hint)}></button>'
        for height, kind, hint in columns
    )
    return (
        f'<div class="chart"><div class="y" aria-hidden="true"><span>{escape(top)}</span><span>{escape(bottom)}</span>'
        f'</div><div class="columns" data-rove role="group" aria-label="{escape(label)}">{bars}</div></div>'
    )


def _causes(found: Sequence[Cause]) -> str:
    if not found:
        return ""
    most = max(cause.seconds for cause in found) or 1.0
    rows = [
        [
            prose(cause.reason),
            escape(", ".join(cause.images)),
            number(str(cause.builds)),
            f'<td class="n wide">{escape(seconds_text(cause.seconds))}'
            f'<i class="meter executed" style="width:{100 * cause.seconds / most:.1f}%"></i></td>',
        ]
        for cause in found
    ]
    return "<h2>What rebuilds were caused by</h2>" + table(["Cause", "Images", "#Builds", "#Time"], rows)


def _builds(builds: Iterable[Build]) -> str:
    rows = []
    for build in builds:
        bad = "" if build.status == Status.DONE else " bad"
        words = build.action if build.status == Status.DONE else f"{build.action} {build.status}"
        cached = f"{build.cached_steps} of {build.work_steps}" if build.work_steps else "–"
        rows.append(
            [
                number(str(build.id)),
                f'<td class="nowrap">{escape(when(build.started))}</td>',
                escape(build.image),
                f'<span class="pill{bad}">{escape(words)}</span>',
                number(seconds_text(build.seconds)),
                number(cached),
                prose("; ".join(build.causes)),
            ]
        )
    head = ["#Id", "When", "Image", "Action", "#Time", "#Cached", "Why"]
    return f"<h2>Latest builds</h2>{table(head, rows)}"
