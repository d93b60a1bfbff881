"""``doit advise``: what each line of the Dockerfiles cost over the commits of late, and what it need not have cost."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from doit_images.advise import replay
from doit_images.advise.durations import done_builds, seconds_of
from doit_images.advise.installs import read_by
from doit_images.advise.replay import Cost
from doit_images.ci.commits import WorkingCopy
from doit_images.core.base.formatting import seconds_text
from doit_images.core.base.output import Output, table
from doit_images.core.buildkit.progress import brief
from doit_images.core.run import Run

_PATHS = 2
_ROOM = 50  # characters of an instruction
_LONG = 1.0  # seconds: a COPY that takes less is no cost that anybody would look for


def show(run: Run, words: Sequence[str], commits: int, *, as_json: bool) -> None:
    """Print what each line cost over so many commits, the dearest first, for the images that ``words`` name or for all,
    to standard output. ``UserError`` for what the command line cannot mean, and where there is no git repository."""
    wanted = [run.project.image(word).name for word in words] or list(run.project.images)
    found, looked = replay.costs(WorkingCopy(run.files, run.environ, run.common), commits)
    chosen = [cost for cost in found if cost.image in wanted]
    builds = {name: done_builds(run.history, name) for name in wanted}
    for cost in chosen:
        cost.seconds = seconds_of(cost.step, builds[cost.image])
    chosen.sort(key=lambda cost: (-cost.saving, -cost.needless, -cost.runs * (cost.seconds or 0), -cost.runs))
    where = {image.name: _file(image.dockerfile, run.files[0].parent) for image in run.project.images.values()}
    if as_json:
        print(json.dumps({"commits": looked, "lines": [_data(cost, where) for cost in chosen]}, indent=2))
    else:
        _print(chosen, where, looked)


def _file(dockerfile: str, folder: Path) -> str:
    return os.path.relpath(dockerfile, folder) if dockerfile else "the inline Dockerfile"


def _print(found: Sequence[Cost], where: Mapping[str, str], commits: int) -> None:
    from rich.text import Text

    ran = [cost for cost in found if cost.runs and (cost.step.instruction == "RUN" or (cost.seconds or 0) >= _LONG)]
    drawn = table("image", "line", "instruction", "runs because of", numbers=("runs", "needless", "each", "to save"))
    for cost in ran:
        each = "?" if cost.seconds is None else seconds_text(cost.seconds)
        save = seconds_text(cost.saving) if cost.saving else ""
        place, text = f"{where[cost.image]}:{cost.step.line}", Text(_short(cost.step.text))
        drawn.add_row(cost.image, place, text, Text(_why(cost)), str(cost.runs), str(cost.needless or ""), each, save)
    console = Output()
    if ran:
        console.print(drawn)
    for cost in (cost for cost in ran if cost.needless):
        console.print(Text(f"\n{_sentence(cost, where[cost.image])}"))
    saving = sum(cost.saving for cost in ran)
    needless = f", {seconds_text(saving)} of it needless" if saving else ""
    if commits:
        console.print(f"the last {commits} commits: {f'{len(ran)} lines' if ran else 'no line'} ran again{needless}")
    else:
        console.print("there is no commit before HEAD that could tell which lines run again")
    if unknown := sum(cost.seconds is None for cost in ran):
        console.print(f"how long {unknown} of these lines take is not known: no build here has run them yet")


def staged(run: Run, copy: WorkingCopy, before: str, tree: str, names: Collection[str]) -> None:
    """Print which line lets an installation of one of these images run again needlessly with what is staged (``tree``),
    where all of the commit ``before`` was built."""
    for cost in replay.between(copy, before, tree):
        if cost.image in names:
            image = run.project.images.get(cost.image)
            cost.seconds = seconds_of(cost.step, done_builds(run.history, cost.image))
            file = _file(image.dockerfile if image else "", run.files[0].parent)
            print(f"{_lets(cost, file)}, and nothing touched {_reads(cost)}: doit advise {cost.image} --patch")


def _short(text: str) -> str:
    """An instruction in one line, as far as a table has room."""
    one = " ".join(brief(text).replace("\\\n", " ").split())
    return one if len(one) <= _ROOM else f"{one[: _ROOM - 1]}…"


def _why(cost: Cost) -> str:
    lines = [f"line {line}" if line != cost.step.line else "itself" for line, _ in cost.because.most_common(2)]
    paths = [path for path, _ in cost.paths.most_common(_PATHS)]
    more = f" and {len(cost.paths) - _PATHS} more" if len(cost.paths) > _PATHS else ""
    return ", ".join(lines) + (f": {', '.join(paths)}{more}" if paths else "")


def _sentence(cost: Cost, file: str) -> str:
    """Which line lets an installation run needlessly, how often, and what it reads."""
    took = f": {seconds_text(cost.saving)}" if cost.saving else ""
    often = f"{cost.runs} of {cost.commits} commits; {cost.needless} of them did not touch {_reads(cost)}"
    return f"{_lets(cost, file)} in {often}{took}"


def _lets(cost: Cost, file: str) -> str:
    above, _ = cost.needless_because.most_common(1)[0]
    each = f", {seconds_text(cost.seconds)}" if cost.seconds else ""
    return f"{file}:{above} lets line {cost.step.line} ({_short(cost.step.text)}{each}) run again"


def _reads(cost: Cost) -> str:
    return " or ".join(sorted(read_by(cost.step.text) or ())) or "any file that it reads"


def _data(cost: Cost, where: Mapping[str, str]) -> dict[str, Any]:
    return {
        "image": cost.image,
        "dockerfile": where[cost.image],
        "line": cost.step.line,
        "instruction": cost.step.text,
        "runs": cost.runs,
        "needless": cost.needless,
        "seconds": cost.seconds,
        "because_of_lines": dict(cost.because.most_common()),
        "because_of_files": dict(cost.paths.most_common()),
    }
