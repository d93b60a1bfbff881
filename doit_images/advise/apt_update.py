"""The rule: lists of packages are fetched in the step that installs by them, so they are never older than it.

RUN apt-get update              →    RUN apt-get update && apt-get install -y git
RUN apt-get install -y git
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doit_images.advise.apt import UPDATES, installs, updates_first
from doit_images.advise.around import RunInstruction, runs
from doit_images.advise.patch import Patch, edited
from doit_images.advise.shell import is_of
from doit_images.advise.steps import Step

NAME = "apt-update"


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each step of a Dockerfile with these steps that only fetches lists."""
    every = runs(text, steps)
    parents = {run.around.parent for run in every}
    for run in every:
        if not _only_updates(run) or run.around.stage in parents:
            continue
        later = [each for each in every if each.around.stage == run.around.stage and each.span.line > run.span.line]
        by_it = [each for each in later if installs(each.commands) and not updates_first(each.commands)]
        if by_it and all(each.commands for each in later) and not any(_only_updates(each) for each in later):
            update = run.span.text[run.commands[0].start : run.commands[0].end]
            new = {each.span.line: _with(each, update) for each in by_it}
            why = f"line {by_it[0].span.line} installs by lists that may have been fetched long before"
            yield Patch(NAME, run.span.line, why, edited(text, {**new, run.span.line: ""}))


def _only_updates(run: RunInstruction) -> bool:
    return len(run.commands) == 1 and is_of(run.commands[0], UPDATES) and not run.span.instruction.flags


def _with(run: RunInstruction, update: str) -> str:
    text, at = run.span.text, run.commands[0].start
    return f"{text[:at]}{update} && {text[at:]}"
