"""The rule: packages are installed, and users and folders made, before files are copied that are not needed for it.

    COPY . /app                                     RUN apt-get update && apt-get install -y git
    RUN apt-get update && apt-get install -y git    →    COPY . /app

A ``COPY`` that brings both what the installation reads and more is for ``locks-first``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import takewhile

from doit_images.advise.apt import LISTS
from doit_images.advise.around import Around, RunInstruction, around, runs
from doit_images.advise.installs import read_by
from doit_images.advise.patch import Patch, Span, spans
from doit_images.advise.steps import Step

NAME = "order"
_USR = ("bin", "include", "lib", "local", "sbin", "share")
# What a package manager, or what it installs, may look at.
_READ = ("/bin", "/etc", "/lib", "/root", "/sbin", "/var", *(f"/usr/{name}" for name in _USR))


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each installation of a Dockerfile with these steps that could come before what is copied above it."""
    there, every = around(text), spans(text)
    by_line = {step.line: step for step in steps}
    for run in runs(text, steps):
        names = read_by(run.span.text)
        if names is None or not run.commands:
            continue
        number = [span.line for span in every].index(run.span.line)
        above = list(takewhile(lambda each: is_copy(each, there, by_line), reversed(every[:number])))[::-1]
        later = [each for each in above if not _needs(run, names, each, by_line[each.line])]
        kept = [each for each in above if each not in later]
        if later and not any(overlap(one, other, there) for one in later for other in kept):
            why = f"it runs again whenever a file changes that line {later[0].line} copies, and reads none of them"
            yield Patch(NAME, run.span.line, why, ordered(text, kept, run.span, later))


def is_copy(span: Span, there: Mapping[int, Around], steps: Mapping[int, Step]) -> bool:
    """Whether it is a COPY of which is known where it copies to."""
    known = span.instruction.name == "COPY" and not span.instruction.trigger and span.line in steps
    return known and there[span.line].path(span.instruction.words[-1]) != ""


def _needs(run: RunInstruction, names: Collection[str], copy: Span, step: Step) -> bool:
    """Whether an installation may look at something that is copied: where programs and their settings are, what it
    names, and, where it reads files of such names, one of these or some that nobody knows."""
    target = run.around.path(copy.instruction.words[-1])
    if target in ("", "/", "/usr") or any(f"{target}/".startswith(f"{folder}/") for folder in _READ):
        return True
    system = not names and all(command.words[0] != "mkdir" for command in run.commands)
    if _names(run, target, system=system) or (names and "$" in run.span.text):
        return True
    files = [posixpath.basename(path) for _, selection in step.files for path in selection.files()]
    return bool(names) and (not files or any(fnmatch(file, name) for file in files for name in names))


def _names(run: RunInstruction, target: str, *, system: bool) -> bool:
    """Whether an installation names a place, or may: by a pattern, or by what another command prints. A word that is
    for the ``system`` (a package, a user) is a path where it looks like one."""
    text = run.span.text.replace(f"{LISTS}/*", "")
    if re.search(r"\*|\./|\$\(|`|<", text):
        return True
    if not run.around.folder.startswith("/") or any(command.words[0] == "cd" for command in run.commands):
        return posixpath.basename(target) in text
    words = [word for word in re.split(r"[\s=,;&|'\"]+", text) if not system or re.search(r"/|\.(apk|deb|rpm)$", word)]
    paths = [path for path in map(run.around.path, filter(None, words)) if path]
    return any(f"{path}/".startswith(f"{target}/") or f"{target}/".startswith(f"{path}/") for path in paths)


def overlap(one: Span, other: Span, there: Mapping[int, Around]) -> bool:
    """Whether one may overwrite what the other copies."""
    first, second = (f"{there[each.line].path(each.instruction.words[-1])}/" for each in (one, other))
    return first.startswith(second) or second.startswith(first)


def ordered(text: str, kept: Sequence[Span], run: Span, later: Sequence[Span]) -> str:
    """A Dockerfile in which these follow one another; the empty lines above the ``run`` are then below it, too."""
    lines = (text if text.endswith("\n") else f"{text}{run.end}").splitlines(keepends=True)
    first = min(span.first for span in (*kept, *later))

    def blank(span: Span) -> list[str]:
        return list(takewhile(lambda line: not line.strip(), reversed(lines[first : span.first])))

    def own(some: Sequence[Span]) -> list[str]:
        return [line for at, span in enumerate(some) for line in (*(blank(span) if at else ()), *_lines(lines, span))]

    new = [*own(kept), *(blank(run) if kept else ()), *_lines(lines, run), *blank(run), *own(later)]
    return "".join([*lines[:first], *new, *lines[run.last + 1 :]])


def _lines(lines: Sequence[str], span: Span) -> Sequence[str]:
    return lines[span.first : span.last + 1]
