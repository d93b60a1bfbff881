"""The rule: packages of the system are installed before files are copied that they do not need.

    COPY . /app                                     RUN apt-get update && apt-get install -y git
    RUN apt-get update && apt-get install -y git    →    COPY . /app

What reads files of the context is for ``locks-first``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from doit_images.advise.around import Around, around, runs
from doit_images.advise.installs import read_by
from doit_images.advise.patch import Patch, Span, moved, spans
from doit_images.advise.shell import is_of
from doit_images.advise.steps import Step

NAME = "order"
_SYSTEM = (
    *((name, "install") for name in ("apt-get", "apt", "dnf", "microdnf", "yum")),
    ("apk", "add"),
)
_USR = ("bin", "include", "lib", "local", "sbin", "share")
# What a package manager, or what it installs, may look at.
_READ = ("/bin", "/etc", "/lib", "/root", "/sbin", "/var", *(f"/usr/{name}" for name in _USR))


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each installation of a Dockerfile with these steps that could come before what is copied above it."""
    there, every = around(text), spans(text)
    reached = {step.line for step in steps}
    by_line = {run.span.line: run for run in runs(text, steps)}
    for number, span in enumerate(every):
        run = by_line.get(span.line)
        if not run or read_by(span.text) != frozenset() or not any(is_of(each, _SYSTEM) for each in run.commands):
            continue
        if above := list(takewhile(lambda each: _is_free(each, there), reversed(every[:number]))):
            first = above[-1]
            if first.line in reached and not _uses(span, above, there):
                why = f"it runs again whenever a file changes that line {first.line} copies, and reads none"
                yield Patch(NAME, span.line, why, moved(text, span, first))


def _is_free(span: Span, there: Mapping[int, Around]) -> bool:
    """Whether an instruction copies to where no installation looks."""
    if span.instruction.name != "COPY" or span.instruction.trigger:
        return False
    target = there[span.line].path(span.instruction.words[-1])
    return target not in ("", "/", "/usr") and not any(f"{target}/".startswith(f"{folder}/") for folder in _READ)


def _uses(span: Span, above: Sequence[Span], there: Mapping[int, Around]) -> bool:
    """Whether an installation names a place that is copied to, or takes a package or a script from where it works."""
    named = [there[each.line].path(each.instruction.words[-1]) for each in above]
    return any(folder in span.text for folder in named) or "./" in span.text or "*" in span.text.replace("lists/*", "")
