"""The rule: a build does not see what no image needs, and what lets its steps run again for nothing.

    COPY . /app    with .git, __pycache__ and the Dockerfile itself    →    all of these in .dockerignore

Only names that mean the same everywhere, and only where no Dockerfile asks for them. The ignore file is the one that
BuildKit reads; all images that it is for count.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from doit_images.advise.around import around, runs
from doit_images.advise.patch import Patch, spans
from doit_images.advise.shell import is_of
from doit_images.advise.steps import Step, steps_of
from doit_images.advise.whole import Whole
from doit_images.core.inputs.ignorefile import Patterns, rule_of
from doit_images.core.inputs.image_inputs import ContextPart, ImageInputs

NAME = "ignore-file"
_GIT, _CI, _CACHE, _EDITOR = "git's own", "what CI is told", "a cache that is made again", "an editor's own"
_NEVER = {
    **dict.fromkeys((".git", ".gitignore", ".gitattributes", ".gitmodules"), _GIT),
    **dict.fromkeys((".github", ".gitlab-ci.yml", ".circleci", ".travis.yml", ".pre-commit-config.yaml"), _CI),
    **dict.fromkeys(("**/__pycache__", "**/.pytest_cache", "**/.mypy_cache", "**/.ruff_cache"), _CACHE),
    **dict.fromkeys(("**/.hypothesis", "**/.tox", "**/.nox", "**/.eslintcache", "**/.nyc_output"), _CACHE),
    **dict.fromkeys((".vscode", ".idea", ".editorconfig", "**/.DS_Store"), _EDITOR),
}
_FOR_PEOPLE = dict.fromkeys(
    ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md"), "for people"
)
_NAMES_IT = re.compile(rb"\.md\b|readme|changelog|contributing|code_of_conduct|security\.", re.IGNORECASE)
_MOST_FILES, _LARGEST = 2000, 1 << 20
_MODULES = "node_modules"
_INSTALLS = (("npm", "ci"), ("npm", "install"), ("yarn",), ("yarn", "install"), ("pnpm", "install"))
_PLAIN = re.compile(r"[\w./-]+")


class _Reader(NamedTuple):
    """An image that an ignore file is for, the part of its inputs that it is about, and the image's steps."""

    inputs: ImageInputs
    part: ContextPart
    steps: Sequence[Step]

    @property
    def name(self) -> str:
        """The image's."""
        return self.inputs.name


def patches(whole: Whole) -> Iterator[tuple[Sequence[str], Patch]]:
    """For each ignore file a patch with all that it lacks, then one with each of these alone."""
    for path, readers in _by_ignore_file(whole).items():
        given = _NEVER | _FOR_PEOPLE | _own(whole, path, readers) | {_MODULES: "what the installation makes"}
        lacking = {pattern: why for pattern, why in given.items() if _is_needless(pattern, readers)}
        there = whole.text(path)
        new = {path.name: ""} if there is None and any("" in each.part.selection.sources() for each in readers) else {}
        for some in dict.fromkeys([tuple(lacking), *((pattern,) for pattern in lacking)]) if lacking else ():
            chosen = {pattern: lacking[pattern] for pattern in some}
            first, line = _first(readers, some)
            why = f"no image needs what it copies of this: {', '.join(some)}"
            removes = {place: why for reader in readers for place, why in _places(reader, chosen)}
            others = {path: _with(there or "", chosen | new)}
            names = dict.fromkeys([first.name, *(reader.name for reader in readers)])
            yield [*names], Patch(NAME, line, why, first.inputs.dockerfile_text, removes, others)


def with_hidden(whole: Whole, path: Path) -> dict[Path, str]:
    """The ignore files that have to name a file that is new, so that no image copies it, with what they say then."""
    found: dict[Path, str] = {}
    for ignore, readers in _by_ignore_file(whole).items():
        for part in (reader.part for reader in readers):
            name = os.path.relpath(path, part.root)
            copied = any(f"{name}/".startswith(f"{source}/" if source else "") for source in part.selection.sources())
            if copied and not name.startswith("..") and not part.ignore.hides(name):
                found[ignore] = _with(whole.text(ignore) or "", [name])
    return found


def _by_ignore_file(whole: Whole) -> Mapping[Path, list[_Reader]]:
    found: dict[Path, list[_Reader]] = defaultdict(list)
    for inputs in whole.images.values():
        if inputs.problem or inputs.image.remote_context or not inputs.image.dockerfile:
            continue
        steps = steps_of(inputs)
        for part in inputs.parts:
            if part.sent:
                found[part.ignore.path or part.root / ".dockerignore"].append(_Reader(inputs, part, steps))
    return found


def _own(whole: Whole, path: Path, readers: Iterable[_Reader]) -> dict[str, str]:
    """What only says how to build or run: Dockerfiles, Compose files, the ignore file."""
    said = {
        **dict.fromkeys((Path(inputs.image.dockerfile) for inputs in whole.images.values()), "a Dockerfile"),
        **dict.fromkeys(whole.project.files, "a Compose file"),
        path: "the list itself",
    }
    found: dict[str, str] = {}
    for root in {reader.part.root for reader in readers}:
        shown = {os.path.relpath(file, root): why for file, why in said.items()}
        found |= {name: why for name, why in shown.items() if not name.startswith("..") and _PLAIN.fullmatch(name)}
    return found


def _is_needless(pattern: str, readers: Iterable[_Reader]) -> bool:
    """Whether something that a pattern hides is copied, with a folder that holds it, and no step asks for it."""
    hit = False
    for reader in readers:
        asked = _tops(reader.part.selection.sources(), pattern)
        if asked or (pattern == ".git" and any(re.search(r"\bgit\b", step.text) for step in reader.steps)):
            return False
        found = bool(_tops(reader.part.selection.files(), pattern))
        if found and pattern == _MODULES and not _installs_later(reader):
            return False
        hit |= found
    return hit and not (pattern in _FOR_PEOPLE and any(map(_names_them, readers)))


def _names_them(reader: _Reader) -> bool:
    """Whether a step or a file that an image reads may mean what is written for people, which a tool or the program
    itself may then read; also where that takes long to tell."""
    if any(_NAMES_IT.search(step.text.encode()) for step in reader.steps):
        return True
    told = [*_NEVER, *_FOR_PEOPLE, ".dockerignore"]
    patterns = Patterns(filter(None, map(rule_of, told)))
    names = [name for name in reader.part.selection.files() if not patterns.hides(name)]
    paths = [reader.part.root / name for name in names]
    if len(paths) > _MOST_FILES or any(path.stat().st_size > _LARGEST for path in paths):
        return True
    return any(_NAMES_IT.search(path.read_bytes()) for path in paths)


def _installs_later(reader: _Reader) -> bool:
    """Whether each stage that a ``node_modules`` is copied into makes its own below that."""
    installs: dict[str, int] = {}
    for run in runs(reader.inputs.dockerfile_text, reader.steps):
        if any(is_of(command, _INSTALLS) for command in run.commands):
            installs[run.around.stage] = run.span.line
    there, copies = around(reader.inputs.dockerfile_text), [step.line for step, _ in _hit(reader, [_MODULES])]
    return bool(copies) and all(line < installs.get(there[line].stage, 0) for line in copies)


def _hit(reader: _Reader, patterns: Sequence[str]) -> Iterator[tuple[Step, set[str]]]:
    """The steps that copy from this part what one of these hides, with the topmost paths of that."""
    for step in reader.steps:
        for folder, selection in step.files if step.instruction in ("COPY", "ADD") else ():
            names = selection.files() if folder == str(reader.part.root) else []
            if tops := {top for pattern in patterns for top in _tops(names, pattern)}:
                yield step, tops


def _places(reader: _Reader, chosen: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Where in an image lies what is hidden then, and why it may be gone; without what a variable says. What an
    installation makes has to stay."""
    text = reader.inputs.dockerfile_text
    there, words = around(text), {span.line: span.instruction.words for span in spans(text)}
    for pattern, why in chosen.items():
        for step, tops in _hit(reader, [pattern]) if pattern != _MODULES else ():
            target = there[step.line].path(words[step.line][-1])
            sources = [each for _, selection in step.files for each in selection.sources()]
            for top, source in ((top, source) for top in tops for source in sources if target):
                if not source or top.startswith(f"{source}/"):
                    yield f"{target.rstrip('/')}/{os.path.relpath(top, source or '.')}", why


def _tops(files: Iterable[str], pattern: str) -> set[str]:
    """The topmost paths on the way to these files that a pattern hides."""
    found = set[str]()
    patterns, name = Patterns(filter(None, [rule_of(pattern)])), pattern.removeprefix("**/")
    for file in (file for file in files if name in file):
        paths = [*(file[:at] for at, char in enumerate(file) if char == "/"), file]
        if found.isdisjoint(paths):
            found.update(next(([path] for path in paths if patterns.hides(path)), []))
    return found


def _first(readers: Sequence[_Reader], patterns: Sequence[str]) -> tuple[_Reader, int]:
    """The first image that copies what one of these hides, and the line that does."""
    return next(((each, step.line) for each in readers for step, _ in _hit(each, patterns)), (readers[0], 1))


def _with(text: str, patterns: Iterable[str]) -> str:
    end = "\r\n" if "\r\n" in text else "\n"
    text = text if not text or text.endswith("\n") else text + end
    return text + "".join(f"{pattern}{end}" for pattern in patterns)
