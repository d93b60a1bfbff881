"""What ``benchmark_builds`` and ``compare_performance`` do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from benchmarks import compare, measure, scenarios
from benchmarks.measure import in_words
from benchmarks.replay import commits, replay, typical
from benchmarks.scenarios import Case
from benchmarks.side_by_side import SideBySide, side_by_side
from tasks.base.errors import UserError
from tasks.base.output import Output, table
from tasks.engine.client import Engine
from tasks.engine.layers import together
from tasks.pruning import image_contents
from tasks.pruning.image_contents import Measured
from tasks.run import Run
from tasks.stack.standard import declared_both_ways


def benchmark_builds(run: Run, images: str, repeat: int, as_json: bool) -> None:
    """Measure every scenario both ways and print a table, or JSON, to standard output."""
    with side_by_side(run) as both:
        cases = _measured(both, run, images, repeat)
    result = scenarios.in_machine(cases)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    _print_cases(cases)
    print(f"\nmedian (fastest – slowest) of {repeat}; {in_words(result['machine'])}")


def compare_performance(run: Run, images: str, repeat: int, git: int, as_json: bool) -> None:
    """Measure all that the guide's tables hold, print them with verdicts, and leave them as HTML, Markdown and JSON in
    ``.build/comparison``."""
    inputs = _inputs(run)
    pairs = declared_both_ways(run)
    names = chosen(images, list(pairs))
    with side_by_side(run) as both:
        cases = _measured(both, run, images, repeat)
        measured = {
            way: {name: image_contents.measure_image(Engine(engine.address), refs[at]) for name, refs in pairs.items()}
            for at, (way, engine) in enumerate({"standard": both.standard, "optimized": both.optimized}.items())
        }
        disk = _on_disk(both, run, measured["standard"])
        edits = commits(run.files[0].parent, git) if git else typical(inputs, names)
        replayed = replay(both, edits, run.events.say)
    bytes_ = {
        name: (one.size, other.size)
        for name, one in measured["standard"].items()
        if name in names and one and (other := measured["optimized"][name])
    }
    rows = compare.rows(cases, bytes_, disk, replayed)
    machine = measure.machine()
    result = compare.as_json(rows, machine, cases=[case.as_json() for case in cases], replay=replayed.as_json())
    folder = run.folder / "comparison"
    folder.mkdir(exist_ok=True)
    text = compare.markdown(rows, machine)
    written = {
        "index.html": compare.page(rows, machine, run.project.name),
        "comparison.md": text,
        "comparison.json": json.dumps(result, indent=2, ensure_ascii=False) + "\n",
    }
    for name, content in written.items():
        (folder / name).write_text(content)
    print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)
    run.events.say(f"{folder / 'index.html'}, comparison.md and comparison.json beside it")


def chosen(images: str, known: Sequence[str]) -> list[str]:
    """The images that ``--images`` names, all ``known`` ones without it; ``UserError`` for one that is not known."""
    names = [name.strip() for name in images.split(",") if name.strip()] or list(known)
    for name in names:
        if name not in known:
            raise UserError(f"no image {name!r} is declared both ways", remedy="there are " + ", ".join(known))
    return names


def _measured(both: SideBySide, run: Run, images: str, repeat: int) -> list[Case]:
    if repeat < 1:
        raise UserError(f"--repeat must be at least 1, not {repeat}")
    names = chosen(images, list(declared_both_ways(run)))
    parents = {parent for one in run.decisions().values() for parent in one.inputs.parents.values()}
    return scenarios.run(both, _inputs(run), names, sorted(parents), repeat, run.events.say)


def _inputs(run: Run) -> dict[str, list[str]]:
    return {name: decision.inputs.paths() for name, decision in run.decisions().items()}


def _on_disk(both: SideBySide, run: Run, standard: Mapping[str, Measured | None]) -> tuple[int, int]:
    """The bytes of all images on one disk: the standard ones, and the optimized ones with what they build on."""
    engine = Engine(both.optimized.address)
    optimized = {name: image_contents.measure_image(engine, one.ref) for name, one in run.project.images.items()}
    return tuple(  # type: ignore[return-value]
        together(image.parts for image in found.values() if image) for found in (standard, optimized)
    )


def _print_cases(cases: Sequence[Case]) -> None:
    drawn = table("scenario", "image", numbers=("standard", "optimized", "faster"))
    for one in cases:
        times = [
            f"{t.median:.2f} s ({min(t.seconds):.2f} – {max(t.seconds):.2f})" for t in (one.standard, one.optimized)
        ]
        drawn.add_row(one.scenario, one.image or "all", *times, f"{one.improvement:.1%}")
    Output().print(drawn)
