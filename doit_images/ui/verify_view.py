"""``doit verify``: are the images, and the containers that run, exactly what the sources give? As JSON, and as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from doit_images.ci.verifying.difference import Difference
from doit_images.ci.verifying.verify import Verification, chosen, read_together, verify
from doit_images.core.base.errors import UserError, printable
from doit_images.core.run import Run
from doit_images.stack import checkout

_SHOWN = 12


def check(run: Run, images: Sequence[str], *, rebuild: bool, asked: bool, as_json: bool) -> None:
    """Print what was found of these images (default: all) to standard output, each as soon as it is known; with
    ``asked`` only what BuildKit says of the plan (``asked_view``). ``UserError`` where anything differs, or where an
    image cannot be built again."""
    if asked:
        from doit_images.ui import asked_view

        if rebuild:
            raise UserError("--rebuild builds, and --plan never does", remedy="leave one of them out")
        asked_view.check(run, images, as_json=as_json)
        return
    verdicts = []
    names = chosen(run.project, checkout.project_of(run), images)
    run.settings.need_engine()
    contents = read_together(run.engine, run.planner.decisions(), names)
    for name in names:
        if rebuild:
            print(f"building {name} once more, without cache", file=sys.stderr)
        verdicts.append(verify(run, name, contents, rebuild=rebuild))
        if not as_json:
            print(text(verdicts[-1]), flush=True)
    if as_json:
        print(json.dumps({"images": [as_data(verdict) for verdict in verdicts]}, indent=2))
    different = [verdict.name for verdict in verdicts if not verdict.same]
    if different:
        raise UserError(f"not what these sources give: {', '.join(different)}", remedy="doit plan says what is stale")


def as_data(verdict: Verification) -> dict[str, object]:
    """A verdict for JSON."""
    rebuilt = None if verdict.rebuilt is None else [each._asdict() for each in verdict.rebuilt]
    return {**asdict(verdict), "same": verdict.same, "rebuilt": rebuilt}


def text(verdict: Verification) -> str:
    """A verdict for people: a line for the image, and one for each thing that differs."""
    lines = [*verdict.differs]
    for container, differs in verdict.containers.items():
        lines += [f"container {container}: {each}" for each in _some(differs)]
    lines += [f"another build: {each}" for each in _some([_line(each) for each in verdict.rebuilt or ()])]
    if lines:
        return "\n".join([f"{verdict.name}: differs", *(printable(f"  {line}") for line in lines)])
    what = [f"{len(verdict.containers)} running"] if verdict.containers else []
    what += [f"signed {each}" for each in verdict.attached]
    what += ["another build gives the same layers"] if verdict.rebuilt is not None else []
    more = "".join(f", {each}" for each in what)
    return f"{verdict.name}: is what the sources give (in-{verdict.fingerprint[:16]}){more}"


def _line(difference: Difference) -> str:
    place = f"layer {difference.layer}" if difference.layer else "its"
    return " ".join(filter(None, [place, difference.path, f"({', '.join(difference.what)})"]))


def _some(lines: Sequence[str]) -> list[str]:
    more = [f"{len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more]
