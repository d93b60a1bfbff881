"""The rule: what an installation of packages reads is copied before the rest, so other files do not make it run again.

    COPY . .                                    COPY requirements.txt ./
    RUN pip install -r requirements.txt    →    RUN pip install -r requirements.txt
                                                COPY . .

Only a ``COPY`` of the whole context that stands directly above the installation is looked at: what is between them
might need the files. Whether the image stays the same is not known here: see ``proof``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path, PurePosixPath

from doit_images.advise.installs import BY_TOOL, read_by
from doit_images.advise.patch import Patch, moved, spans
from doit_images.advise.steps import Step
from doit_images.core.inputs.instructions import Instruction

NAME = "locks-first"
_MOST = 8  # folders: a patch of more lines is none that a person would write
_ODD = re.compile(r"[\s$\"'\\]")
_INCLUDED = re.compile(r"^\s*(?:-r|--requirement|-c|--constraint)[ =]+(\S+)", re.MULTILINE)


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each installation of a Dockerfile with these steps that could come before what is copied above it."""
    by_line = {step.line: step for step in steps if step.number}
    for above, span in pairwise(spans(text)):
        copy, install = by_line.get(above.line), by_line.get(span.line)
        if not copy or not install or copy.stage != install.stage or install.instruction != "RUN":
            continue
        if first := _copies(above.instruction, copy, install.text):
            why = f"line {span.line} runs again whenever any file changes that line {above.line} copies"
            yield Patch(NAME, span.line, why, moved(text, span, above, first))


def _copies(whole: Instruction, copy: Step, install: str) -> list[str]:
    """What copies the files that an installation reads, before all others; none where that cannot be said."""
    everything = whole.name == "COPY" and whole.words[:-1] in ((".",), ("./",))
    if not everything or whole.flags.keys() - {"chown", "chmod", "link"} or len(copy.files) != 1:
        return []
    ((root, selection),) = copy.files
    files = {entry.path for entry in selection.entries() if entry.kind == "file"}
    read = _read(Path(root), install, files)
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in sorted(read):
        by_folder[str(PurePosixPath(path).parent)].append(path)
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
