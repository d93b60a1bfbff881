"""``doit history``: the builds that were done; as a table, one of them whole, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from doit_images.core.base.errors import UserError, meant
from doit_images.core.base.formatting import seconds_text, size_text
from doit_images.core.buildkit.progress import brief
from doit_images.core.history.store import Build, History, Status, StepRecord

if TYPE_CHECKING:
    from doit_images.core.run import Run

LIMIT = 30
"""How many builds are listed when nothing else is asked for."""


class StepPair(NamedTuple):
    """A step in two builds, by its words; None where one has no such step."""

    words: str
    before: StepRecord | None
    after: StepRecord | None

    @property
    def longer(self) -> float:
        """By how many seconds it took longer in the second."""
        return (self.after.seconds if self.after else 0.0) - (self.before.seconds if self.before else 0.0)


def show(run: Run, words: Sequence[str], number: str, against: str, limit: str, *, as_json: bool) -> None:
    """Print the history of the project to standard output: the build with the id ``number``, alone or ``against``
    another one, else those of the image that ``words`` name, of all without any. ``UserError`` for what the command
    line cannot mean."""
    if len(words) > 1:
        raise UserError("history takes one image", remedy=f"`doit history {words[1]}` shows that of {words[1]}")
    if against:
        before, after = (get(run.history, _whole(*each)) for each in (("--against", against), ("--show", number)))
        pairs = step_pairs(before, after)
        print(_json([pair._asdict() for pair in pairs]) if as_json else comparison(before, after, pairs))
        return
    if number:
        build = get(run.history, _whole("--show", number))
        print(_json(asdict(build)) if as_json else details(build))
        return
    builds = recent(run.history, words[0] if words else None, _whole("--limit", limit) if limit else LIMIT)
    if as_json:
        print(_json([asdict(build) for build in builds]))
    else:
        print_table(builds)


def _whole(option: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**31):
        raise UserError(f"{option} needs a whole number, not {value!r}", remedy="`doit history` lists the ids")
    return int(value)


def get(history: History, number: int) -> Build:
    """The build with this id; ``UserError`` if the history has none."""
    build = history.get(number)
    if build is None:
        raise UserError(f"the history has no build {number}", remedy="`doit history` lists the ids")
    return build


def recent(history: History, image: str | None, limit: int = LIMIT) -> list[Build]:
    """The last builds, of one image or of all; ``UserError`` for an image that the history does not have."""
    builds = history.recent(image, limit)
    if image and not builds:
        known = sorted({build.image for build in history.recent(limit=1000)})
        remedy = meant(image, known) if known else "nothing was built yet"
        raise UserError(f"the history has no build of {image!r}", remedy=remedy)
    return builds


def details(build: Build) -> str:
    """A build whole: its facts, its reasons, and its steps with their times and why they were executed."""
    facts = {
        "image": f"{build.image} ({build.ref})",
        "what": f"{build.action} {build.status}, {seconds_text(build.seconds)}, {_when(build.started)}",
        "waited": f"{seconds_text(build.waited)} from the start of run {build.run}, with {build.workers} workers",
        "why": "\n         ".join(build.causes),
        "parents": ", ".join(build.parents) or "none",
        "input": f"fingerprint {build.fingerprint}",
        "result": f"{build.image_id or 'none'}{f', {size_text(build.size)}' if build.size is not None else ''}",
        "by": f"builder {build.builder or '?'}{f', commit {build.commit}' if build.commit else ''}",
    }
    lines = [f"build {build.id}", *(f"{name:8} {value}" for name, value in facts.items())]
    if build.steps:
        lines += ["", f"steps    {build.cached_steps} of {build.work_steps} from the cache"]
    for step in (step for step in build.steps if step.work or step.error or step.seconds >= 0.05):
        lines.append(f"{_spent(step):>8}  {brief(step.name)}")
        lines += [f"{'':>8}    {step.error or step.why}"] if step.error or step.why else []
    if build.layers:
        lines += ["", "layers   from the base up"]
        lines += [f"{size_text(size):>8}  {digest}" for digest, size in build.layers]
    return "\n".join(lines)


def step_pairs(before: Build, after: Build) -> list[StepPair]:
    """The steps of two builds side by side, those first that took longer."""
    old, new = ({step.words: step for step in build.steps if step.work} for build in (before, after))
    pairs = [StepPair(words, old.get(words), new.get(words)) for words in dict.fromkeys((*new, *old))]
    return sorted(pairs, key=lambda pair: -pair.longer)


def comparison(before: Build, after: Build, pairs: Sequence[StepPair]) -> str:
    """What became of each step from one build to another: what took longer, and why it lost its cache."""
    spent = " → ".join(seconds_text(build.seconds) for build in (before, after))
    lines = [f"build {after.id} of {after.image} against {before.id}: {spent}"]
    for pair in pairs:
        lines.append(f"{_spent(pair.before):>8} → {_spent(pair.after):>8}  {brief(pair.words).strip()}")
        if pair.after and not pair.after.cached and (pair.after.error or pair.after.why):
            lines.append(f"{'':>19}    {pair.after.error or pair.after.why}")
    return "\n".join(lines)


def _spent(step: StepRecord | None) -> str:
    if step is None:
        return "–"
    return "cached" if step.cached else "FAILED" if step.error else seconds_text(step.seconds)


def print_table(builds: Sequence[Build]) -> None:
    """Print builds, one a line, to standard output."""
    if not builds:
        print("nothing was built yet")
        return
    from rich.text import Text

    from doit_images.core.base.output import Output, table

    drawn = table("id", "when", "image", "what", numbers=("time", "cached", "size"))
    for column in drawn.columns:
        column.no_wrap = True
    drawn.add_column("why", overflow="fold")
    for build in builds:
        drawn.add_row(
            str(build.id),
            _when(build.started),
            Text(build.image),
            Text(build.outcome, "" if build.status == Status.DONE else "red"),
            seconds_text(build.seconds),
            f"{build.cached_steps}/{build.work_steps}" if build.work_steps else "",
            size_text(build.size) if build.size is not None else "",
            Text("; ".join(build.reasons)),
        )
    Output().print(drawn)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=asdict)
