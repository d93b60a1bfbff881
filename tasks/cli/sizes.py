"""What takes space in the images? The task that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.base.errors import UserError
from tasks.cli.action import JSON, QUIET, Task, act
from tasks.run import Run


def task_image_sizes() -> Task:
    """Show what takes space in the images, standard against optimized, and what could be removed: [IMAGE …] [--json]"""
    return {"actions": [(act, [image_sizes])], "params": [JSON], "pos_arg": "names", **QUIET}


def image_sizes(run: Run, names: Sequence[str], as_json: bool) -> None:
    """Print the sizes of the images (all, or those named) that the engine holds, standard and optimized, with their
    largest layers and files and what of them could be removed, to standard output."""
    from tasks.pruning import image_contents
    from tasks.stack.standard import twins
    from tasks.ui import sizes_view

    wanted = [run.project.image(name).name for name in names] or list(run.project.images)
    try:
        both_ways = twins(run)
    except UserError:
        both_ways = {}  # sizes can be shown without anything to compare with
    pairs = {name: both_ways.get(name, ("", image.ref)) for name, image in run.project.images.items()}
    measured = {
        way: {name: one for name, refs in pairs.items() if (one := image_contents.measure_image(run.engine, refs[at]))}
        for at, way in enumerate(("standard", "optimized"))
    }
    shown = [image for way in measured.values() for name, image in way.items() if name in wanted]
    if not shown:
        raise UserError("none of these images is in the engine", remedy="doit build_optimized")
    contents = image_contents.contents_of(shown, run.folder / "sizes.json", run.environ, run.events.say)
    report = sizes_view.as_data(
        {name: pairs[name] for name in wanted}, measured["standard"], measured["optimized"], contents
    )
    print(json.dumps(report, indent=2, ensure_ascii=False) if as_json else sizes_view.text(report))
