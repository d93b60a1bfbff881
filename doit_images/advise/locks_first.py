"""The rule: what an installation of packages reads is copied before the rest, so other files do not make it run again.

    COPY . .                                    COPY requirements.txt ./
    RUN pip install -r requirements.txt    →    RUN pip install -r requirements.txt
                                                COPY . .

Only a ``COPY`` of a folder is looked at with no ``RUN`` between: what is between them might need the files. Of several
commands the first ones are moved, up to the last one that is such an installation. Whether the image stays the same is
not known here: see ``proof``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from doit_images.advise.around import around
from doit_images.advise.installs import BY_TOOL, read_by
from doit_images.advise.patch import Patch, Span, edited, moved, spans
from doit_images.advise.shell import commands
from doit_images.advise.steps import Step
from doit_images.core.inputs.instructions import Instruction

NAME = "locks-first"
_MOST = 8  # folders: a patch of more lines is none that a person would write
_ODD = re.compile(r"[\s$\"'\\*?\[]")
_NEUTRAL = ("ENV", "ARG", "LABEL", "EXPOSE", "WORKDIR", "USER")
_STATE = {"cd", "export", "set", "source", ".", "alias", "umask"}  # what later commands of the same RUN are told
_UNDO = {"rm", "clean", "clear", "clear-cache", "prune", "purge", "remove", "autoremove", "uninstall", "del"}
_INCLUDED = re.compile(r"^\s*(?:-r|--requirement|-c|--constraint)[ =]+(\S+)", re.MULTILINE)


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each installation of a Dockerfile with these steps that could come before what is copied above it."""
    by_line = {step.line: step for step in steps if step.number}
    every, there = spans(text), around(text)
    for number, above in enumerate(every):
        span, moves = _below(above, every[number + 1 :])
        copy, install = by_line.get(above.line), by_line.get(span.line) if span else None
        if not span or not copy or not install or copy.stage != install.stage:
            continue
        *_, target = above.instruction.words
        absolute = there[above.line].path(target) if moves and not target.startswith("/") else target
        for first, rest in _parts(span.text):
            if absolute and (copies := _copies(above.instruction, copy, first)):
                why = f"line {span.line} runs again whenever any file changes that line {above.line} copies"
                whole = above.text.removesuffix(target) + absolute
                new = edited(text, {above.line: whole, span.line: f"{first}\n{rest}" if rest else first})
                block, run = (next(each for each in spans(new) if each.line == one.line) for one in (above, span))
                yield Patch(NAME, span.line, why, moved(new, run, block, copies))
                break


def _below(above: Span, later: Sequence[Span]) -> tuple[Span | None, bool]:
    """The RUN below a COPY, if that might as well stand below it, and whether the folder is another one there."""
    moves = False
    for span in later:
        name = span.instruction.name
        if span.instruction.trigger or name not in ("RUN", *_NEUTRAL):
            break
        if name == "RUN":
            return span, moves
        if "$" in above.text:
            break
        moves = moves or name == "WORKDIR"
    return None, False


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """A RUN whole, with nothing, and in two: as many of its first commands as possible, and the others, in the folder
    that both are for. Nothing that takes away what the first ones made: it would stay in their layer."""
    yield text, ""
    every = commands(text)
    lead = next((at for at, command in enumerate(every) if command.words[0] != "cd"), 0)
    for at in range(len(every) - 1, lead, -1):
        own, rest = every[lead:at], every[at:]
        plain = all(each.join == "&&" for each in every[1:]) and not any(_STATE & {*each.words[:1]} for each in own)
        if plain and not any(_UNDO & {*each.words} for each in rest):
            start = every[0].start
            folder = text[start : every[lead].start]
            yield text[: own[-1].end], f"{text[:start]}{folder}{text[rest[0].start :]}"


def _copies(whole: Instruction, copy: Step, install: str) -> list[str]:
    """What copies the files that an installation reads, before all others; none where that cannot be said."""
    if whole.name != "COPY" or len(whole.words) != 2 or _ODD.search(whole.words[0]):
        return []
    if whole.flags.keys() - {"chown", "chmod", "link"} or len(copy.files) != 1:
        return []
    ((root, selection),) = copy.files
    source = PurePosixPath(os.path.normpath(whole.words[0].lstrip("/") or "."))
    paths = [PurePosixPath(entry.path) for entry in selection.entries() if entry.kind == "file"]
    files = {str(path.relative_to(source)) for path in paths if path != source and path.is_relative_to(source)}
    read = _read(Path(root, source), install, files)
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in sorted(read):
        by_folder[str(PurePosixPath(path).parent)].append(str(source / path))
    if not read or read == files or len(by_folder) > _MOST or any(map(_ODD.search, read)):
        return []
    flags = "".join(f"--{name}={value} " if value else f"--{name} " for name, (value, *_) in whole.flags.items())
    target = PurePosixPath(whole.words[-1])
    return [f"COPY {flags}{' '.join(paths)} {_folder(target / folder)}" for folder, paths in sorted(by_folder.items())]


def _folder(path: PurePosixPath) -> str:
    """As ``COPY`` knows that it is a folder.

    >>> _folder(PurePosixPath(".")), _folder(PurePosixPath("/")), _folder(PurePosixPath("/app") / "." / "req")
    ('./', '/', '/app/req/')
    """
    return "./" if str(path) == "." else f"{str(path).rstrip('/')}/"


def _read(root: Path, install: str, files: Collection[str]) -> set[str]:
    """Which of these files of a context an installation reads: those that its tool knows by name, or that it names
    itself, and what such a list of requirements includes."""
    names = read_by(install) or ()
    words = [word.rpartition("=")[2] for word in install.split()]
    found = set[str]()
    todo = [
        path
        for path in files
        for name in names
        if fnmatch(PurePosixPath(path).name, name)
        and (name in BY_TOOL or any(word == path or word.endswith(f"/{path}") for word in words))
    ]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += _included(root, path, files) if path not in BY_TOOL else []
    return found


def _included(root: Path, path: str, files: Collection[str]) -> Iterator[str]:
    """The files that a list of requirements includes."""
    for name in _INCLUDED.findall((root / path).read_text(errors="replace")):
        other = os.path.normpath(PurePosixPath(path).parent / name)
        if other in files:
            yield other
