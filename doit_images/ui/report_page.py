"""What does the report's page contain? ``templates/report.html`` draws it as plain HTML, which prints and needs no
script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from doit_images.ci.history import Tests, tests
from doit_images.core.base.formatting import seconds_text
from doit_images.core.history.store import Build, StepKey
from doit_images.stack.layers import Disk, Layer, parts_of
from doit_images.ui.html import TEMPLATES, render, when
from doit_images.ui.report_timeline import timeline_of
from doit_images.ui.statistics import PastRun, StepHistory, causes, latest_layers, runs, saved_seconds, step_histories

_SECTIONS = {
    "timeline": "Timeline",
    "cache": "Cache hits",
    "sizes": "Sizes",
    "trend": "Trend",
    "causes": "Causes",
    "builds": "Builds",
}
_RUNS, _BUILDS, _CAUSES = 30, 25, 20


@dataclass(frozen=True)
class Shown:
    """What the page tells about: the last run, and the stored builds, newest first."""

    project: str
    last: Sequence[Build]
    builds: Sequence[Build]
    made: float

    @cached_property
    def run(self) -> PastRun:
        """The last run, which must have done something."""
        return runs(self.last)[-1]

    @cached_property
    def steps(self) -> dict[str, dict[StepKey, StepHistory]]:
        """The steps of each image over its builds."""
        return step_histories(self.builds)

    @cached_property
    def saved(self) -> float:
        """The seconds that cached steps saved in the last run."""
        return saved_seconds(self.last, self.steps)

    @cached_property
    def tests(self) -> Tests:
        """What the tests came to since the last run began."""
        return tests(build for build in self.builds if build.started >= self.run.started)


def page(shown: Shown) -> str:
    """The whole page."""
    parts = _parts(shown) if shown.last else dict.fromkeys(_SECTIONS)
    return render(
        TEMPLATES / "report.html",
        title=f"Builds of {shown.project}",
        when=f"last run {when(min(build.started for build in shown.last))}" if shown.last else "",
        sections=[(key, name) for key, name in _SECTIONS.items() if parts[key]],
        words=_words,
        tiles=_tiles(shown) if shown.last else [],
        footer=f"Made {when(shown.made)} from {len(shown.builds)} stored builds.",
        **parts,
    )


def _parts(shown: Shown) -> dict[str, object]:
    """What each section shows; a section without anything is left out."""
    past = runs(shown.builds)[-_RUNS:]
    return {
        "timeline": timeline_of(shown.last),
        "cache": shown.steps,
        "sizes": _sizes(latest_layers(shown.builds)),
        "trend": past if len(past) > 1 else [],
        "causes": causes(shown.builds)[:_CAUSES],
        "builds": shown.builds[:_BUILDS],
    }


def _tiles(shown: Shown) -> list[tuple[str, str]]:
    run, saved = shown.run, shown.saved
    facts = [
        (seconds_text(run.wall), f"wall time of the last run, {seconds_text(run.work)} of work"),
        (str(run.built), f"built, {run.other} retagged or pulled" if run.other else "images built"),
        ("–" if run.hit_rate is None else f"{run.hit_rate:.0%}", f"of {run.steps} steps from the cache"),
    ]
    facts += [(seconds_text(saved), "saved: what cached steps take when executed")] if saved else []
    if shown.tests:
        facts.append((str(shown.tests.run), f"tests run, {tests_words(shown.tests)}"))
    if run.failed:
        facts.insert(2, (str(run.failed), "not finished"))
    return facts


def tests_words(tests: Tests) -> str:
    """What did not have to be run, in words."""
    failed = f"{tests.failed} failed; " if tests.failed else ""
    return f"{failed}{tests.passed_before} had passed before, which saved {seconds_text(tests.saved)}"


def _sizes(images: Mapping[str, Sequence[Layer]]) -> dict[str, object]:
    if not images:
        return {}
    disk = Disk({image: parts_of(layers) for image, layers in images.items()})
    totals = {image: sum(layer.size for layer in layers) for image, layers in images.items()}
    largest = max(totals.values()) or 1
    drawn = [
        {
            "name": image,
            "total": totals[image],
            "unique": disk.unique(image),
            "width": 100 * totals[image] / largest,
            "count": len(layers),
            "layers": [
                {"place": place, "digest": layer.digest, "size": layer.size, "users": disk.users(layer.chain)}
                for place, layer in enumerate(layers, 1)
            ],
        }
        for image, layers in images.items()
    ]
    return {"alone": sum(totals.values()), "together": disk.together, "images": drawn}


def _words(run: PastRun) -> str:
    """What a run did, in a hint."""
    rate = "" if run.hit_rate is None else f", {run.cached} of {run.steps} steps cached"
    bad = f", {run.failed} not finished" if run.failed else ""
    return f"{when(run.started)}: {seconds_text(run.wall)}, {run.built} built{bad}{rate}"
