"""What did each line of the Dockerfiles cost over the commits of late? From git alone; nothing is built.

One commit after the other is looked at, as a machine that builds each of them would meet it with all that it built
before. A step that has to run there is counted for its line of today; with what made it run: the changed files of which
line, its own text, another base. An installation of packages is needless where none of the files that it reads
(``installs``) changed, and only files that a line above copies made it run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType

from doit_images.advise.installs import read_by
from doit_images.advise.steps import Step, steps_of
from doit_images.ci.commit import Source
from doit_images.ci.commits import Look, WorkingCopy
from doit_images.ci.since import place
from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.inputs import resolver
from doit_images.core.inputs.image_inputs import ImageInputs

_COPIES = ("COPY", "ADD")
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


@dataclass
class Cost:
    """What one line cost: in how many of the ``commits`` it would have ``run``, and of these how often needlessly;
    ``because`` counts the lines that made it run, its own and that of its ``FROM`` included, ``needless_because`` those
    of needless runs, and ``paths`` the changed files that did. ``ran`` are the numbers of these commits, the oldest 0.
    ``seconds`` is how long one run takes, None where the
    history does not know."""

    image: str
    step: Step
    commits: int
    runs: int = 0
    needless: int = 0
    because: Counter[int] = field(default_factory=Counter)
    needless_because: Counter[int] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    ran: set[int] = field(default_factory=set)
    seconds: float | None = None

    @property
    def saving(self) -> float:
        """The seconds that its needless runs took, as far as that is known."""
        return self.needless * (self.seconds or 0.0)


@dataclass(frozen=True)
class _Run:
    """That a step ran at a commit: by its place, because of which, also by their places, and of which files."""

    at: int
    roots: tuple[int, ...]
    paths: frozenset[str]
    needless: bool


@dataclass(frozen=True)
class _At:
    """An image at one commit."""

    steps: Sequence[Step]
    fingerprint: str
    runs: Sequence[_Run] = ()


def costs(
    copy: WorkingCopy,
    commits: int,
    texts: Mapping[str, str] = NO_TEXTS,
    ignores: Mapping[Path, str] = resolver.NO_TEXTS,
) -> tuple[list[Cost], int]:
    """What each line of each image cost over so many commits before ``HEAD``, along first parents, the image's lines in
    order; and how many commits that are: a repository may have fewer, and commits whose project cannot be read are
    passed over. ``texts``: the Dockerfiles, by image, that these have at every commit, in place of their own, and then
    only these images are looked at; ``ignores``: its ignore files, by their paths of today. Raises ``UserError`` where
    there is no repository, or the project at ``HEAD`` cannot be read."""
    here = copy.files[0].parent
    place(here, "--show-toplevel")
    argv = ["git", "-C", str(here), "rev-list", "--first-parent", f"--max-count={commits + 1}", "HEAD"]
    listed = commands.run(argv).checked("git cannot list the commits").stdout.split()[::-1]
    return _replayed(copy, listed, texts, ignores)


def between(copy: WorkingCopy, before: str, after: str) -> list[Cost]:
    """The lines that would run needlessly at a commit, or a tree, where all of another one was built. Raises
    ``UserError`` where one of them cannot be read."""
    return [cost for cost in _replayed(copy, [before, after], NO_TEXTS, resolver.NO_TEXTS)[0] if cost.needless]


def _replayed(
    copy: WorkingCopy, listed: Sequence[str], texts: Mapping[str, str], ignores: Mapping[Path, str]
) -> tuple[list[Cost], int]:
    """The costs over these commits, the oldest first, and how many of them come after the first that can be read."""
    here = copy.files[0].parent
    top, git_dir = place(here, "--show-toplevel").resolve(), place(here, "--absolute-git-dir")
    states: list[Mapping[str, _At]] = []
    built: dict[str, set[str]] = {}
    with leftovers.folder("advise-") as scratch:
        look = Look(copy, top, scratch.resolve() / top.name)
        look.texts = {look.root / os.path.relpath(path.resolve(), top): text for path, text in ignores.items()}
        for commit in listed:
            try:
                images = look.see(Source(git_dir, commit)).images
            except UserError:
                if commit == listed[-1]:
                    raise
                continue
            before = states.pop() if states else None
            images = {
                name: replace(each, dockerfile_text=texts.get(name, each.dockerfile_text))
                for name, each in images.items()
                if not texts or name in texts
            }
            now = {name: _met(each, (before or {}).get(name), built, look.root) for name, each in images.items()}
            if before is not None:
                states.append({name: replace(one, steps=_light(one.steps)) for name, one in before.items()})
            states.append(now)
    found = [cost for name in states[-1] for cost in _summed(name, states)]
    return found, len(states) - 1


def _met(inputs: ImageInputs, before: _At | None, built: dict[str, set[str]], root: Path) -> _At:
    """An image at a commit, with the steps that run where those of ``built`` were built, to which they are added."""
    if before and inputs.fingerprint == before.fingerprint:
        return _At(before.steps, before.fingerprint)
    try:
        steps = steps_of(inputs)
    except UserError:
        steps = []
    known = built.setdefault(inputs.name, set())
    runs = list(_runs(steps, before.steps, known, root)) if before and known else []
    known.update(step.result for step in steps)
    return _At(steps, inputs.fingerprint, runs)


def _light(steps: Iterable[Step]) -> list[Step]:
    """Steps without what they read, which is much in sixty commits."""
    return [replace(step, files=()) for step in steps]


def _runs(steps: Sequence[Step], before: Sequence[Step], known: set[str], root: Path) -> Iterator[_Run]:
    """The steps that run, each with what made it run."""
    was = {at: before[other] for at, other in aligned(steps, before).items()}
    roots: list[frozenset[int]] = []
    for at, step in enumerate(steps):
        own = {at} if at not in was or was[at].own != step.own else set()
        roots.append(frozenset(own.union(*(roots[other] for other in step.after))))
        if step.instruction in (*_COPIES, "RUN") and step.result not in known:
            paths = {path for one in roots[at] if one in was for path in _changed(was[one], steps[one], root)}
            yield _Run(at, tuple(sorted(roots[at])), frozenset(paths), _needless(at, steps, was, roots[at], paths))


def _needless(at: int, steps: Sequence[Step], was: Mapping[int, Step], roots: frozenset[int], paths: set[str]) -> bool:
    if steps[at].instruction != "RUN" or at in roots:
        return False
    copied = all(
        one in was and steps[one].instruction in _COPIES and steps[one].text == was[one].text and steps[one].files
        for one in roots
    )
    names = read_by(steps[at].text)
    if not copied or names is None or not paths:
        return False
    return not any(fnmatch(path.rpartition("/")[2], name) for path in paths for name in names)


def _changed(before: Step, after: Step, root: Path) -> set[str]:
    """The files of which a step now reads something else than before."""
    one, other = ({entry for entry in _entries(step, root) if entry[1] != "dir"} for step in (before, after))
    return {path for path, *_ in one ^ other}


def _entries(step: Step, root: Path) -> Iterator[tuple[str, str, int, str]]:
    for folder, selection in step.files:
        prefix = os.path.relpath(folder, root)
        for path, kind, mode, digest in selection.entries():
            yield os.path.normpath(f"{prefix}/{path}"), kind, mode, digest


def aligned(steps: Sequence[Step], others: Sequence[Step]) -> dict[int, int]:
    """Which step each one is among the ``others``, by their places: the same text in the same stage, or what stands in
    its place where as many were edited."""
    mine, theirs = ([(step.stage, step.text) for step in some] for some in (steps, others))
    found: dict[int, int] = {}
    for what, start, end, other, to in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if what == "equal" or (what == "replace" and end - start == to - other):
            pairs = zip(range(start, end), range(other, to), strict=True)
            found.update((a, b) for a, b in pairs if steps[a].instruction == others[b].instruction)
    return found


def _summed(name: str, states: Sequence[Mapping[str, _At]]) -> Iterator[Cost]:
    """The costs of the lines that an image has at the last of these states."""
    last = states[-1][name].steps
    found = {
        at: Cost(name, step, len(states) - 1) for at, step in enumerate(last) if step.instruction in (*_COPIES, "RUN")
    }
    today = {at: at for at in range(len(last))}  # by the place at that commit
    for number, (state, later) in enumerate(zip(reversed(states), [None, *reversed(states)], strict=False), 2):
        if name not in state:
            break
        if later is not None:
            back = aligned(state[name].steps, later[name].steps)
            today = {at: today[other] for at, other in back.items() if other in today}
        for run in state[name].runs:
            if run.at in today and (cost := found.get(today[run.at])):
                lines = [last[today[one]].line for one in run.roots if one in today]
                cost.runs += 1
                cost.ran.add(len(states) - number)
                cost.needless += run.needless
                cost.because.update(lines)
                cost.needless_because.update(lines if run.needless else [])
                cost.paths.update(run.paths)
    yield from found.values()
