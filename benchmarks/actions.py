"""What ``benchmark_builds`` and ``compare_performance`` do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import compare, measure, newer_engine, scenarios
from benchmarks.compare import Row
from benchmarks.measure import Timing, in_words
from benchmarks.replay import Replay, commits, replay, typical
from benchmarks.scenarios import Case
from benchmarks.side_by_side import SideBySide, side_by_side
from doit_images.core.base.errors import UserError, meant
from doit_images.core.base.output import Output, table
from doit_images.core.engine.client import Engine
from doit_images.core.run import Run
from doit_images.pruning import image_contents
from doit_images.pruning.image_contents import Measured
from doit_images.stack.layers import together
from tasks.standard import declared_both_ways


def benchmark_builds(run: Run, images: str, repeat: int, engine: str, as_json: bool) -> None:
    """Measure every scenario each way; print a table, or JSON, and draw a page. ``engine``: ``here``, or
    ``testing`` for engine, buildx and Compose of Debian's testing suite."""
    with side_by_side(run, newer_engine.programs(engine)) as both:
        machine, cases = _measured(both, run, images, repeat)
    result = scenarios.in_machine(cases, machine)
    page = compare.page(compare.rows(cases, {}, {}, Replay()), machine, run.project.name)
    (_folder(run) / "builds.html").write_text(page)
    run.events.say(f"drawn in {_folder(run) / 'builds.html'}")
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    _print_cases(cases)
    print(f"\nmedian (fastest – slowest) of {repeat}; {in_words(result['machine'])}")


def compare_performance(run: Run, images: str, repeat: int, git: int, engine: str, as_json: bool) -> None:
    """Measure all that the guide's tables hold, print them with verdicts, and leave them as HTML, Markdown and JSON in
    ``.doit-images/comparison``: what was measured so far after each part, so that what fails later costs no more.
    ``engine`` as for ``benchmark_builds``. ``UserError`` for a rebuild that was missed, once all of that is there."""
    inputs = _inputs(run)
    pairs = declared_both_ways(run)
    names = chosen(images, list(pairs))
    with side_by_side(run, newer_engine.programs(engine)) as both:
        machine, cases = _measured(both, run, images, repeat)
        bytes_, disk = sizes(both, run, pairs, names)
        _keep(run, machine, cases, compare.rows(cases, bytes_, disk, Replay()), Replay())
        edits = commits(run.files[0].parent, git) if git else typical(inputs, names)
        replayed = replay(both, edits, run.events.say)
    rows = compare.rows(cases, bytes_, disk, replayed)
    result = _keep(run, machine, cases, rows, replayed)
    print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else compare.markdown(rows, machine))
    run.events.say(f"{run.folder / 'comparison' / 'index.html'}, comparison.md and comparison.json beside it")
    if replayed.missed:
        raise UserError("BuildKit had work to do in what was not built:\n" + "\n".join(replayed.missed))


def _keep(
    run: Run, machine: Mapping[str, Any], cases: Sequence[Case], rows: Sequence[Row], replayed: Replay
) -> dict[str, Any]:
    """Leave what was measured as files; the JSON."""
    result = compare.as_json(rows, machine, cases=[case.as_json() for case in cases], replay=replayed.as_json())
    folder = _folder(run)
    (folder / "index.html").write_text(compare.page(rows, machine, run.project.name))
    (folder / "comparison.md").write_text(compare.markdown(rows, machine))
    (folder / "comparison.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def _folder(run: Run) -> Path:
    folder = run.folder / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def chosen(images: str, known: Sequence[str]) -> list[str]:
    """The images that ``--images`` names, all ``known`` ones without it; ``UserError`` for one that is not known."""
    names = [name.strip() for name in images.split(",") if name.strip()] or list(known)
    for name in names:
        if name not in known:
            raise UserError(f"no image {name!r} is declared both ways", remedy=meant(name, known))
    return names


def _measured(both: SideBySide, run: Run, images: str, repeat: int) -> tuple[dict[str, Any], list[Case]]:
    """The machine as it was when this began, and what was measured on it."""
    if repeat < 1:
        raise UserError(f"--repeat must be at least 1, not {repeat}")
    names = chosen(images, list(declared_both_ways(run)))
    parents = {parent for one in run.planner.decisions().values() for parent in one.inputs.parents.values()}
    measure.wait_until_quiet(run.events.say)
    machine = measure.machine(both.environ_of("optimized"))
    return machine, scenarios.run(both, _inputs(run), names, sorted(parents), repeat, run.events.say)


def _inputs(run: Run) -> dict[str, list[str]]:
    return {name: decision.inputs.paths() for name, decision in run.planner.decisions().items()}


def sizes(
    both: SideBySide, run: Run, pairs: Mapping[str, tuple[str, str]], names: Sequence[str]
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """By way the bytes of each of these images, and of all on one disk: the optimized ones with what they build on."""
    refs = {way: {name: refs[at] for name, refs in pairs.items()} for at, way in enumerate(("standard", "optimized"))}
    if both.documented:
        refs["documented"] = {name: image for name, image in both.documented_images().items() if name in pairs}
    every = {**refs, "optimized": {name: one.ref for name, one in run.project.images.items()}}
    found = {
        way: {name: one for name, ref in every[way].items() if (one := _image(both, way, ref))} for way in both.engines
    }
    by_image = {
        name: {way: images[name].size for way, images in found.items()}
        for name in names
        if all(name in images for images in found.values())
    }
    return by_image, {way: together(one.parts for one in images.values()) for way, images in found.items()}


def _image(both: SideBySide, way: str, ref: str) -> Measured | None:
    return image_contents.measure_image(Engine(both.engines[way].address), ref)


def _print_cases(cases: Sequence[Case]) -> None:
    ways = [way for way in ("standard", "documented", "plain", "optimized") if any(way in one.timings for one in cases)]
    drawn = table("scenario", "image", numbers=(*ways, "faster"))
    for one in cases:
        times = [_spread(one.timings[way]) if way in one.timings else "" for way in ways]
        drawn.add_row(one.scenario, one.image or "all", *times, f"{one.improvement:.1%}")
    Output().print(drawn)


def _spread(timing: Timing) -> str:
    return f"{timing.median:.2f} s ({min(timing.seconds):.2f} – {max(timing.seconds):.2f})"
