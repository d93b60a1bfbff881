"""The rule: of several lists of packages each is installed as it is copied, so another one does not run it again.

    COPY base base                                   COPY base base
    COPY app app                                     RUN pip install -r base/requirements.txt
    RUN pip install -r base/requirements.txt \\   →   COPY app app
        -r app/requirements.txt                      RUN pip install -r app/requirements.txt

Only for lists that pin each version: of others what is installed first may be what the next one does not want.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from doit_images.advise.around import RunInstruction, around, runs
from doit_images.advise.order import is_copy, ordered, overlap
from doit_images.advise.patch import Patch, Span, edited, spans
from doit_images.advise.shell import is_of
from doit_images.advise.steps import Step

NAME = "lists-apart"
_INSTALLS = (("pip", "install"), ("pip3", "install"), ("uv", "pip", "install"))
LIST = re.compile(r"(?:[ \t]*\\\n)?[ \t]+(?:-r|--requirement)(?:=|[ \t]*)([\w./-]+)(?=\s|$)")
PINNED = re.compile(r"\s|#|$|\S+==")


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each installation of a Dockerfile with these steps whose first list is there before the others."""
    there, every = around(text), spans(text)
    by_line = {step.line: step for step in steps}
    for run in runs(text, steps):
        lists = LIST.findall(run.span.text)
        if len(lists) < 2 or len(run.commands) != 1 or not is_of(run.commands[0], _INSTALLS):
            continue
        number = [span.line for span in every].index(run.span.line)
        above = list(takewhile(lambda each: is_copy(each, there, by_line), reversed(every[:number])))[::-1]
        brought = {
            each.line: _brought(run, lists, by_line[each.line], there[each.line].path(each.instruction.words[-1]))
            for each in above
        }
        later = [each for each in above if brought[each.line] and lists[0] not in brought[each.line]]
        kept = [each for each in above if each not in later]
        pinned = any(brought[each.line].get(lists[0]) for each in kept)
        if later and pinned and not any(overlap(one, other, there) for one in later for other in kept):
            why = f"{lists[0]} is installed again whenever {lists[-1]} changes"
            yield Patch(NAME, run.span.line, why, _apart(text, run, kept, later))


def _brought(run: RunInstruction, lists: Sequence[str], copy: Step, target: str) -> Mapping[str, bool]:
    """The lists that a COPY to this folder brings, each with whether it pins all of its packages."""
    found: dict[str, bool] = {}
    files = [Path(root, path) for root, selection in copy.files for path in selection.files()]
    for name in lists:
        inner = run.around.path(name).removeprefix(f"{target}/")
        same = [file for file in files if file.parts[-len(Path(inner).parts) :] == Path(inner).parts]
        if run.around.path(name).startswith(f"{target}/") and same:
            found[name] = len(same) == 1 and all(map(PINNED.match, same[0].read_text(errors="replace").splitlines()))
    return found


def _apart(text: str, run: RunInstruction, kept: Sequence[Span], later: Sequence[Span]) -> str:
    own = run.span.text
    first, *_ = found = list(LIST.finditer(own))
    alone = own[: first.end()] + LIST.sub("", own[first.end() :])
    rest = own[: found[0].start()] + own[found[0].end() :]
    text = edited(text, {run.span.line: f"{alone}\n{rest}"})
    return ordered(text, kept, next(span for span in spans(text) if span.line == run.span.line), later)
