"""What would we have built, and what was needed, over the last commits of somebody's history?

    .venv/bin/python benchmarks/replay_history.py REPOSITORY --file docker-compose.yml [--commits 60] [--name NAME]

REPOSITORY is a git repository on this machine. Its commits are checked out one by one into a temporary folder; `doit
plan` says which images it would build, and `doit build_optimized` builds them. Nothing of the project is run and no
base of it is needed: images in which every program ends at once stand in for all bases (`stand_ins.py`). What they
have to hold is learned in a first pass from what BuildKit misses. The figures are added to replay_history.json and .md.

What was needed is BuildKit's word: before `plan` is asked, `docker buildx bake` builds the project's own Dockerfiles by
what Compose says of them (`judge.py`), and an image whose digest was never seen before was needed. One that was needed
and not built fails the script. Three ways are counted against it: building all images at
each commit, as `docker compose build` and most CI jobs do (with layer caching alone the builder is still asked for
each, and finds work in those that were needed, if it holds the cache of the commit before); building those whose
context folder or Dockerfile changed, as path filters do, and what these miss; and ours. An image that BuildKit cannot
build so, as one that adds an URL, is unjudged at that commit. `doit plan --at COMMIT --since` the one before, which
reads git alone, is held against the images that BuildKit makes otherwise than of the commit before. What that is in
minutes of CI, with tests, is in ci_minutes.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import judge, measure
from benchmarks.peers import Bench, measuring_engine
from benchmarks.projects import DOIT, ROOT
from benchmarks.replay import commits
from benchmarks.results import say
from benchmarks.stand_ins import StandIns, rewrite
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.planning.plan import Action

HERE = Path(__file__)
_SAID = 10  # after how many commits is said how far it is
_LESSONS = 40  # how many things of one commit may be missed one after the other
_TARGET = re.compile(r"target ([\w-]+): failed to (?:solve|receive)")
_FROM = re.compile(r"^[ \t]*(?i:FROM)[ \t]+(?:--\S+[ \t]+)*(?!scratch\s)([a-z0-9][a-z0-9./_-]*(?::[\w.-]+)?)\s", re.M)
_COLUMNS = {
    "commits": "commits",
    "images": "images",
    "all_at_each_commit": "all at each commit",
    "by_context_folder": "by path filters",
    "missed_by_context_folder": "missed by these",
    "needed": "needed",
    "ours": "ours",
    "missed": "missed by us",
    "changed": "changed",
    "at": "by plan --at",
    "missed_at": "missed by it",
    "needless_at": "needless",
    "unjudged": "unjudged",
}


@dataclass
class Tally:
    """The sums over one history."""

    commits: int = 0
    passed_over: int = 0
    images: set[str] = field(default_factory=set)
    every: int = 0
    by_folder: int = 0
    missed_by_folder: int = 0
    ours: int = 0
    needed: int = 0
    unjudged: int = 0
    missed: list[str] = field(default_factory=list)
    needless: list[str] = field(default_factory=list)
    changed: int = 0
    at: int = 0
    missed_at: list[str] = field(default_factory=list)
    needless_at: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Built:
    """What BuildKit made of a commit: what it was given by service (``judge.targets``), and the digest of each of these
    that could be built."""

    targets: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]


class Judge:
    """BuildKit, given the project's own Dockerfiles."""

    def __init__(self, bench: Bench, stand_ins: StandIns) -> None:
        self._bench, self._stand_ins = bench, stand_ins
        self._seen: dict[str, set[str]] = {}
        self._last: dict[str, str] = {}

    def build(self) -> Built:
        """Build what is checked out, image for image what BuildKit makes of it. ``UserError`` where the project cannot
        be read."""
        files = tuple(map(Path, self._bench.environ["COMPOSE_FILE"].split(os.pathsep)))
        targets: Mapping[str, Mapping[str, Any]] = judge.targets(files, self._bench.environ)
        dockerfiles = {Path(target["dockerfile"]) for target in targets.values() if "dockerfile" in target}
        rewrite(dockerfiles)
        texts = [file.read_text(errors="replace") for file in dockerfiles if file.is_file()]
        self._stand_ins.make(ref for text in texts for ref in _FROM.findall(text))  # what is overlooked, BuildKit names
        for _ in range(_LESSONS):
            digests, said = self._bake(targets)
            if digests is not None:
                return Built(targets, digests)
            if self._stand_ins.learn(said):
                self._stand_ins.make()
                continue
            failed = {name for name in targets if judge.called(name) in _TARGET.findall(said)} or {next(iter(targets))}
            say(f"not judged: {', '.join(sorted(failed))}: {said.strip().splitlines()[-1]}")
            targets = {name: target for name, target in targets.items() if not _needs(name, failed, targets)}
            if not targets:
                break
        return Built(targets, {})

    def needed(self, built: Built) -> set[str]:
        """The images that were never the same before."""
        found = set()
        for name, digest in built.digests.items():
            if digest not in self._seen.setdefault(name, set()):
                found.add(name)
                self._seen[name].add(digest)
        return found

    def changed(self, built: Built) -> set[str]:
        """The images that are not what they were at the commit before."""
        changed = {name for name, digest in built.digests.items() if self._last.get(name) != digest}
        self._last = dict(built.digests)
        return changed

    def _bake(self, targets: Mapping[str, Any]) -> tuple[dict[str, str] | None, str]:
        """The digest of each target, or None with what BuildKit said."""
        environ = {**self._bench.environ, **judge.ENVIRON}
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder, "told.json")
            argv = ["docker", "buildx", "bake", "--progress=plain", "--file", "-", "--metadata-file", str(told)]
            given = judge.definition(targets, environ, tags=[], output=["type=docker"])
            done = commands.run(argv, env=environ, stdin=given, stderr=commands.STDOUT)
            if done.status:
                return None, done.stdout
            answer = json.loads(told.read_text())
        made = {name: answer.get(judge.called(name), answer) for name in targets}
        return {name: one["containerimage.config.digest"] for name, one in made.items()}, ""


def _needs(name: str, failed: set[str], targets: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a target is one of these, or builds on one."""
    above = judge.parents(targets[name]) & targets.keys()
    return name in failed or any(_needs(parent, failed, targets) for parent in above)


class History:
    """Somebody's last commits, checked out one by one below a folder."""

    def __init__(self, repository: Path, count: int, folder: Path) -> None:
        self._repository, self._folder, self._before = repository, folder, ""
        self._commits = commits(repository, count + 1)

    def __len__(self) -> int:
        """How many there are at most: a first one, where everybody starts, and those that are counted."""
        return len(self._commits)

    def __iter__(self) -> Iterator[tuple[str, str, list[Path]]]:
        """Each commit with its subject and the files that changed since the one before; checked out as it is taken."""
        last = ""
        for said, check_out in self._commits:
            check_out(self._folder, "")
            commit, _, subject = said.partition(" ")
            argv = ["git", "-C", str(self._repository), "diff", "--name-only", "-z", last, commit]
            changed = commands.run(argv).checked("git").stdout.split("\0") if last else []
            self._before = last
            yield commit, subject, [self._folder / path for path in changed if path]
            last = commit

    def at(self, commit: str, bench: Bench) -> set[str]:
        """The images that `plan --at` names for a commit, after the one before."""
        files = bench.environ["COMPOSE_FILE"].split(os.pathsep)
        places = (str(self._repository / Path(file).relative_to(self._folder)) for file in files)
        environ = {**bench.environ, "COMPOSE_FILE": os.pathsep.join(places)}
        argv = [*DOIT, "plan", "--at", commit, "--since", self._before, "--json"]
        done = commands.run(argv, env=environ, cwd=ROOT).checked(f"plan --at {commit}")
        return {image["name"] for image in json.loads(done.stdout)["images"] if image["action"] == Action.BUILD}


def replay(history: History, bench: Bench, judge: Judge, tally: Tally) -> None:
    """Go through the history and count; the first state is where everybody starts."""
    began, left = False, measure.TimeLeft()
    for number, (commit, subject, changed) in enumerate(history):
        since = time.monotonic()
        try:
            built = judge.build()
            needed, changed_images = judge.needed(built), judge.changed(built)
            at = history.at(commit, bench) & built.digests.keys() if began else set()
            plan = {image["name"]: image for image in bench.plan()}
        except UserError as error:
            tally.passed_over += 1
            say(f"{commit} is passed over: {error}")
            continue
        ours = {name for name, image in plan.items() if image["action"] == Action.BUILD and name in built.digests}
        _build(bench, ours)
        tally.images |= set(plan)
        if began:
            tally.commits += 1
            tally.every += len(built.digests)
            tally.unjudged += len(plan) - len(built.digests)
            filtered = touched(built, changed) & built.digests.keys()
            tally.by_folder += len(filtered)
            tally.missed_by_folder += len(needed - filtered)
            tally.ours += len(ours)
            tally.needed += len(needed)
            tally.missed += [f"{commit} {name}" for name in needed - ours]
            tally.needless += [f"{commit} {name}" for name in ours - needed]
            tally.changed += len(changed_images)
            tally.at += len(at)
            tally.missed_at += [f"{commit} {name}" for name in changed_images - at]
            tally.needless_at += [f"{commit} {name}" for name in at - changed_images]
            counts = f"ours {len(ours)}, needed {len(needed)} of {len(built.digests)}"
            left.took("commit", time.monotonic() - since)
            rest = left.of(["commit"] * (len(history) - number - 1))
            say(f"{number}/{len(history) - 1} {commit} {subject[:50]}: {counts}{rest}")
        began = True


def learn(history: History, judge: Judge) -> None:
    """Go through the history once for what the stand-ins have to hold: were they to grow later, all would be new."""
    for number, (commit, _, _) in enumerate(history):
        if number % _SAID == 0:
            say(f"learning what bases have to hold: {number} of {len(history)} commits")
        try:
            judge.build()
        except UserError as error:
            say(f"{commit} cannot be read: {error}")


def _build(bench: Bench, names: set[str]) -> None:
    """Let doit build what it planned, so that its next plan knows it; a build that fails is tried again."""
    if names:
        tasks = [f"build_optimized:{name}" for name in sorted(names)]
        measure.tried(lambda: {"": bench.doit(*tasks).seconds}, say)


def touched(built: Built, changed: Sequence[Path]) -> set[str]:
    """The images whose context folder, or Dockerfile, holds a changed file, and those that build on them."""
    found: set[str] = set()
    for name, target in built.targets.items():  # parents before children
        places = [Path(target["context"]), Path(target.get("dockerfile", target["context"]))]
        if any(path.is_relative_to(place) for path in changed for place in places) or found & judge.parents(target):
            found.add(name)
    return found


def main() -> None:
    """Count, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--file", default="docker-compose.yml", help="several with a colon between them")
    parser.add_argument("--commits", type=int, default=60)
    parser.add_argument("--name", default="")
    given = parser.parse_args()
    tally = Tally()
    with measuring_engine() as engine:
        for_us = {name: value for name, value in engine.items() if not name.startswith("COMPOSE_")}
        replayed(given.repository, given.file, given.commits, for_us, tally)
    keep(given.name or given.repository.name, tally)
    if tally.missed or tally.missed_at:
        sys.exit(f"missed: {len(tally.missed)} by us, {len(tally.missed_at)} by plan --at")


def replayed(repository: Path, file: str, count: int, environ: Mapping[str, str], tally: Tally) -> None:
    """Learn, then count, in the engine of this environment."""
    stand_ins = StandIns(environ)
    with tempfile.TemporaryDirectory(prefix="bm-history-") as clone:
        here = with_files(repository, Path(clone))
        for counting in (False, True):
            with tempfile.TemporaryDirectory(prefix="bm-history-") as temporary:
                folder = Path(temporary) / "work"
                folder.mkdir()
                files = os.pathsep.join(str(folder / one) for one in file.split(os.pathsep))
                bench = Bench({**environ, "COMPOSE_FILE": files}, Path(temporary))
                history, judge = History(here, count, folder), Judge(bench, stand_ins)
                if counting:
                    replay(history, bench, judge, tally)
                else:
                    learn(history, judge)


def with_files(repository: Path, folder: Path) -> Path:
    """The repository, or a clone of it in ``folder`` where it is a bare one: `plan --at` asks a working copy."""
    if commands.answer(["git", "-C", str(repository), "rev-parse", "--is-bare-repository"]) != "true":
        return repository
    argv = ["git", "clone", "--quiet", "--shared", str(repository), str(folder / "clone")]
    commands.run(argv).checked("git cannot clone it")
    return folder / "clone"


def keep(name: str, tally: Tally) -> None:
    """Add the figures to those of other histories."""
    figures = HERE.with_suffix(".json")
    kept = json.loads(figures.read_text()) if figures.exists() else {}
    facts = measure.machine()
    kept[name] = {
        "commits": tally.commits,
        "passed_over": tally.passed_over,
        "images": len(tally.images),
        "all_at_each_commit": tally.every,
        "by_context_folder": tally.by_folder,
        "missed_by_context_folder": tally.missed_by_folder,
        "ours": tally.ours,
        "needed": tally.needed,
        "missed": len(tally.missed),
        "needless": len(tally.needless),
        "unjudged": tally.unjudged,
        "changed": tally.changed,
        "at": tally.at,
        "missed_at": len(tally.missed_at),
        "needless_at": len(tally.needless_at),
        "run": f"{facts['date']}, {facts['commit']}, Engine {facts['engine']}, buildx {facts['buildx']}, Compose "
        f"{facts['compose']}",
    }
    figures.write_text(json.dumps(kept, indent=1) + "\n")
    text = markdown(kept)
    HERE.with_suffix(".md").write_text(text)
    print(text)
    kinds = {
        "missed": tally.missed,
        "needless": tally.needless,
        "missed by plan --at": tally.missed_at,
        "needless by plan --at": tally.needless_at,
    }
    for kind, which in kinds.items():
        for one in which:
            print(f"{kind}: {one}", file=sys.stderr)


def markdown(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all histories."""
    heads = ["history", *_COLUMNS.values(), "run"]
    lines = ["# Images built over public histories", "", *(__doc__ or "").strip().splitlines()[4:], ""]
    lines += ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * len(_COLUMNS) + "---|"]
    for label, one in kept.items():
        numbers = [str(one.get(key, "")) for key in _COLUMNS]
        lines.append(f"| {label} | {' | '.join(numbers)} | {one.get('run', '')} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
