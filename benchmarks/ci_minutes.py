"""What does CI cost over a public history, tests included?

    .venv/bin/python benchmarks/ci_minutes.py REPOSITORY --file docker-compose.yml [--commits 60] [--name NAME]
    .venv/bin/python benchmarks/ci_minutes.py --measure

REPOSITORY is a clone on this machine. For each of its last commits is counted what four ways build and test: everything
at each commit; the same with layer caching alone, where each job still starts and each test still runs; images whose
context folder or Dockerfile changed, as path filters do; and what `plan --at COMMIT` names, after the commit before.
Every image has a test here, which sees that image alone, and there is one end-to-end test, which needs all services of
the Compose file: it is due when one of their images changed, what Compose says of them, or what is mounted. No project
declares its tests as `x-test`, so these stand for those that it has. Tests that `plan --at` names and another way does
not run are missed by it: path filters see no edit of the Compose file, for one. That `plan --at` misses no image is
BuildKit's word (replay_history.md).

The counts are that history's. The seconds of a build and a test are not, since none of its bases can be had here: they
are those of this repository's own stack. Of builds they are kept in compare_performance.json (the Dockerfiles as
Docker's documentation writes them): from nothing, after an edit (of code and of packages, the mean), and where nothing
changed, an image each. Of tests `--measure` takes them: `test_image:NAME --again` of each service, the median, and
`ci_test --again`. `plan --at` is timed as it runs. GitHub bills each job rounded up to a minute, and so are minutes
counted: a job for each image that is built or tested, one for the end-to-end test, and for `plan --at` one in each
commit that decides. What a job takes to start is in none of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.projects import DOIT, ROOT, plain
from benchmarks.replay import commits
from benchmarks.replay_history import Built, touched
from benchmarks.results import say
from doit_images.ci.commits import There, WorkingCopy
from doit_images.ci.since import Comparison, Since, plan_since
from doit_images.ci.testing.since import split, told
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.project import Project
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action

KEPT = Path(__file__).with_suffix(".json")
END_TO_END = "end-to-end"
WAYS = {
    "everything": "everything",
    "cached": "layer caching alone",
    "filtered": "path filters",
    "planned": "plan --at",
}
_COLUMNS = ("builds", "of these from the cache", "tests", "end-to-end", "missed", "jobs", "minutes of work", "billed")


class Seconds(NamedTuple):
    """How long one of each takes: a build from nothing, after an edit and with nothing to do, a test of an image, the
    end-to-end test, and a plan."""

    nothing: float
    edited: float
    unchanged: float
    test: float
    end_to_end: float
    plan: float


@dataclass
class Way:
    """What one way does over a history: images built from nothing, after an edit, and asked for in vain; tests of
    images and end-to-end tests; jobs for images, and for plans. ``missed`` are tests that `plan --at` names and this
    way does not run."""

    nothing: int = 0
    edited: int = 0
    unchanged: int = 0
    tests: int = 0
    end_to_end: int = 0
    jobs: int = 0
    plans: int = 0
    missed: int = 0

    def add(self, built: set[str], asked: set[str], tested: set[str], end_to_end: bool) -> None:
        """One commit more: what is built, what else the builder is asked for, and what is tested."""
        self.edited += len(built)
        self.unchanged += len(asked - built)
        self.tests += len(tested)
        self.end_to_end += end_to_end
        self.jobs += len(built | asked | tested)

    def seconds(self, one: Seconds) -> float:
        """How long all of it takes, one after the other."""
        builds = self.nothing * one.nothing + self.edited * one.edited + self.unchanged * one.unchanged
        return builds + self.tests * one.test + self.end_to_end * one.end_to_end + self.plans * one.plan

    def minutes(self, one: Seconds) -> int:
        """What GitHub bills for it, at the least: the job of an image is never longer than a build from nothing and its
        test, and each job counts as whole minutes."""
        job = math.ceil((max(one.nothing, one.edited) + one.test) / 60)
        return self.jobs * job + self.end_to_end * math.ceil(one.end_to_end / 60) + self.plans


@dataclass
class Counts:
    """All ways over one history, and the seconds that each plan took."""

    commits: int = 0
    ways: dict[str, Way] = field(default_factory=lambda: {name: Way() for name in WAYS})
    plans: list[float] = field(default_factory=list)

    def add(self, changed: set[str], renamed: set[str], tests: set[str], filtered: set[str], every: set[str]) -> None:
        """One commit: the images that the plan builds, those that get another name, the tests that it makes due, the
        images that path filters take, and all."""
        self.commits += 1
        everything, cached, by_path, planned = self.ways.values()
        everything.nothing += len(every)
        everything.tests += len(every)
        everything.end_to_end += 1
        everything.jobs += len(every)
        cached.add(changed, every, every, end_to_end=True)
        by_path.add(changed & filtered, filtered, filtered, end_to_end=bool(filtered))
        by_path.missed += len(tests - filtered - {END_TO_END}) + (END_TO_END in tests and not filtered)
        planned.add(changed, renamed, tests - {END_TO_END}, END_TO_END in tests)
        planned.plans += 1


class _Declared:
    """Gives the project of each commit a test of each image and the end-to-end test."""

    def __init__(self) -> None:
        self.tests: dict[str, Any] = {}

    def also(self, project: Project, images: Mapping[str, ImageInputs], there: There) -> Project:
        """The project with what these tests see."""
        tests: dict[str, Any] = {name: {"service": name, "command": ["test"]} for name in project.images}
        if tests:
            services = sorted(there.config()["services"])
            tests[END_TO_END] = {"service": min(tests), "command": ["test"], "services": services}
        self.tests = tests
        return told(project._replace(tests=tests), images, there)


def counted(repository: Path, file: str, count: int) -> Counts:
    """Go through the last commits of a history. ``UserError`` where none can be counted."""
    counts, before = Counts(), ""
    environ = plain()
    files = tuple(repository / each for each in file.split(os.pathsep))
    with tempfile.TemporaryDirectory(prefix="bm-minutes-") as memory:
        for said, _ in commits(repository, count + 1):
            commit, _, subject = said.partition(" ")
            if before:
                try:
                    _count(Comparison(WorkingCopy(files, environ, Path(memory)), commit, before, ""), counts)
                except UserError as error:
                    say(f"{commit} is passed over: {error}")
                say(f"{counts.commits} of {count}: {commit} {subject[:50]}")
            before = commit
    if not counts.commits:
        raise UserError("none of its commits could be counted", where=str(repository), remedy="give --file, of a clone")
    return counts


def _count(asked: Comparison, counts: Counts) -> None:
    declared, began = _Declared(), time.monotonic()
    found = plan_since(asked._replace(copy=asked.copy._replace(also=declared.also)))
    took = time.monotonic() - began
    images, tests = split(found.project._replace(tests=declared.tests), found.decisions)
    every = {name for name, decision in images.items() if decision.action != Action.BROKEN}
    changed = {name for name in every if images[name].action == Action.BUILD}
    renamed = {name for name in every if images[name].stale} - changed
    due = {name for name, test in tests.items() if test.stale and not test.problem}
    counts.add(changed, renamed, due, _filtered(found, asked) & every, every)
    counts.plans.append(took)


def _filtered(found: Since, asked: Comparison) -> set[str]:
    """The images that path filters would build: told by what changed at and below their folders."""
    here = asked.copy.files[0].parent
    argv = ["git", "-C", str(here), "diff", "--name-only", "-z", found.before, found.at]
    changed = commands.run(argv).checked("git").stdout.split("\0")
    below = Path(commands.answer(["git", "-C", str(here), "rev-parse", "--show-prefix"]))
    top = Path(os.path.normpath(found.project.directory.joinpath(*[".."] * len(below.parts))))
    targets = {}
    for name in found.project.images:
        inputs = found.decisions[name].inputs
        context = inputs.image.context
        parents = {parent: f"target:{parent}" for parent in inputs.needs}
        targets[name] = {"context": context, "dockerfile": inputs.image.dockerfile or context, "contexts": parents}
    return touched(Built(targets, {}), [top / path for path in changed if path])


def measured() -> dict[str, float]:
    """How long the tests of this repository's stack take: of one image, the median, and the end-to-end tests."""
    tests = [test["name"] for test in json.loads(_doit("plan", "--json"))["tests"]]
    took = {}
    _doit("build_optimized")
    for name in tests:
        began = time.monotonic()
        _doit(f"test_image:{name}", "--again")
        took[name] = time.monotonic() - began
        say(f"the test of {name} took {took[name]:.1f} s")
    began = time.monotonic()
    _doit("ci_test", "--again")
    return {"test": round(median(took.values()), 1), "end_to_end": round(time.monotonic() - began, 1)}


def _doit(*words: str) -> str:
    return measure.run([*DOIT, *words], cwd=ROOT, env=plain()).stdout


def compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How long a build of one image of this stack takes, of the Dockerfiles that Docker's documentation teaches, by the
    rows of the comparison."""
    known = {row["metric"]: row["documented"] for row in rows}
    images = sum(row["metric"].endswith(": size") for row in rows)
    edited = (known["after a code change"] + known["after a change of dependencies"]) / 2
    every = known["everything, from an empty cache"] / images
    return {"nothing": every, "edited": edited, "unchanged": known["nothing changed"] / images}


def keep(name: str, counts: Counts | None, tests: Mapping[str, float] | None) -> None:
    """Add what was counted or measured to what is kept, and print the tables."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"tests": {}, "histories": {}}
    facts = measure.machine()
    if tests:
        kept["tests"] = {**tests, "machine": facts}
    if counts:
        run = f"{facts['date']}, {facts['commit']}, load average {facts['load_average'][0]}"
        ways = {way: asdict(told) for way, told in counts.ways.items()}
        plan = round(median(counts.plans), 3) if counts.plans else 0.0
        kept["histories"][name] = {"commits": counts.commits, "plan": plan, "ways": ways, "run": run}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    text = markdown(kept)
    KEPT.with_suffix(".md").write_text(text)
    print(text)


def markdown(kept: Mapping[str, Any]) -> str:
    """All tables of what is kept."""
    lines = ["# Minutes of CI over public histories", "", *(__doc__ or "").strip().splitlines()[5:], ""]
    tests = kept["tests"]
    if tests:
        comparison = json.loads(KEPT.with_name("compare_performance.json").read_text())
        one = Seconds(**compared(comparison["rows"]), test=tests["test"], end_to_end=tests["end_to_end"], plan=0)
        lines += [
            f"A build of an image is {one.nothing:.1f} s from nothing, {one.edited:.1f} s after an edit, "
            f"{one.unchanged:.2f} s where nothing changed, measured {measure.in_words(comparison['machine'])}. "
            f"A test is {one.test:g} s and the end-to-end test {one.end_to_end:g} s, "
            f"measured {measure.in_words(tests['machine'])}.",
            "",
        ]
    lines += [f"| history | | {' | '.join(_COLUMNS)} |"]
    lines += ["|---|---|" + "--:|" * len(_COLUMNS)]
    for name, history in kept["histories"].items():
        for way, label in WAYS.items():
            told = Way(**history["ways"][way])
            cells: list[float] = [
                told.nothing + told.edited + told.unchanged,
                told.unchanged,
                told.tests,
                told.end_to_end,
                told.missed,
            ]
            cells += [told.jobs + told.end_to_end + told.plans]
            if tests:
                full = one._replace(plan=history["plan"])
                cells += [round(told.seconds(full) / 60, 1), told.minutes(full)]
            lines.append(f"| {name} | {label} | {' | '.join(map(str, cells))} |")
    lines += ["", *(_of(name, history) for name, history in kept["histories"].items()), ""]
    return "\n".join(lines)


def _of(name: str, history: Mapping[str, Any]) -> str:
    return f"- {name}: {history['commits']} commits, {history['plan']:.2f} s a plan; {history['run']}"


def main() -> None:
    """Count or measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, nargs="?")
    parser.add_argument("--file", default="docker-compose.yml", help="several with a colon between them")
    parser.add_argument("--commits", type=int, default=60)
    parser.add_argument("--name", default="")
    parser.add_argument("--measure", action="store_true")
    given = parser.parse_args()
    if not given.measure and not given.repository:
        parser.error("name a repository, or --measure")
    tests = measured() if given.measure else None
    counts = counted(given.repository, given.file, given.commits) if given.repository else None
    keep(given.name or (given.repository.name if given.repository else ""), counts, tests)


if __name__ == "__main__":
    main()
