"""How much is reused over a day's work?

Typical edits (or the last commits of a git history) are applied one by one to the copy of the project, and after each
both ways build: the optimized one with ``doit``, the standard one image by image, as ``docker compose build`` does.
Counted are the images that were built and the steps that were reused: a step of an image that was not built at all
counts as reused, one that BuildKit took from its cache too. ``FROM`` is no step.

BuildKit itself judges: after each of our builds it is given what Compose says of the same graph (``judge.py``), and a
step that it then still executes is a rebuild that we missed; an image that we built without executing a step was not
needed. It keeps a parent that it built itself apart from the same one that we gave it: so it has built everything once
before the first edit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import edits, judge, measure
from benchmarks.side_by_side import SideBySide
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import buildx
from doit_images.core.buildkit.progress import Progress
from doit_images.core.compose.project import Project, load
from doit_images.core.planning.plan import Action

Apply = Callable[[Path, str], None]
# Twenty edits, in the shares in which most days bring them. "undo" takes back the edit of code just before it.
_DAY = (
    "code", "code", "code", "shared", "code", "documentation", "code", "code", "undo", "code",
    "requirements", "code", "touch", "code", "code", "shared", "documentation", "code", "code", "undo",
)  # fmt: skip


@dataclass(frozen=True)
class Count:
    """What one way did after one edit: the images that it built, and how many of all its steps it reused."""

    built: tuple[str, ...]
    steps: int
    reused: int
    seconds: float


@dataclass(frozen=True)
class Applied:
    """One edit and what followed; ``needed`` are the images that BuildKit found work in."""

    edit: str
    optimized: Count
    standard: Count
    needed: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "edit": self.edit,
            "needed": list(self.needed),
            **{
                name: {
                    "built": list(count.built),
                    "steps": count.steps,
                    "reused": count.reused,
                    "seconds": round(count.seconds, 2),
                }
                for name, count in (("optimized", self.optimized), ("standard", self.standard))
            },
        }


@dataclass(frozen=True)
class Replay:
    """All edits of one replay."""

    applied: Sequence[Applied] = ()

    def hit_rate(self, way: str) -> float:
        """The part of all steps that ``way`` (optimized, standard) reused."""
        counts = [getattr(one, way) for one in self.applied]
        reused, steps = sum(count.reused for count in counts), sum(count.steps for count in counts)
        return float(reused / steps) if steps else 0.0

    def images(self, way: str) -> int:
        """How many images ``way`` built in all."""
        return sum(len(getattr(one, way).built) for one in self.applied)

    @property
    def needed(self) -> int:
        """How many images had to be built, as BuildKit judges."""
        return sum(len(one.needed) for one in self.applied)

    @property
    def missed(self) -> list[str]:
        """Those of these that we did not build, each with the edit. Anything but none is a wrong image."""
        return [
            f"{name}, {one.edit}" for one in self.applied for name in sorted({*one.needed} - {*one.optimized.built})
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain data, the sums first."""
        return {
            "edits": len(self.applied),
            "images": {way: self.images(way) for way in ("optimized", "standard")} | {"needed": self.needed},
            "missed": len(self.missed),
            "steps_reused": {way: round(self.hit_rate(way), 4) for way in ("optimized", "standard")},
            "applied": [one.as_json() for one in self.applied],
        }


def typical(inputs: Mapping[str, Collection[str]], images: Sequence[str]) -> list[tuple[str, Apply]]:
    """A day's work on the services among ``images``: each edit as a sentence and what it does to a folder.

    What a project has no file for is left out.
    """
    services = edits.services(images, inputs)
    code = [edit for name in services if (edit := edits.code_of(name, inputs))]
    packages = [edit for name in services if (edit := edits.requirements_of(name, inputs))]
    shared = edits.shared_code(inputs)
    found: list[tuple[str, Apply]] = []
    for number, kind in enumerate(_DAY):
        edit = code[number % len(code)] if code else None
        match kind:
            case "code" if edit:
                found.append((f"a line in {edit.path}", edit.apply))
            case "undo" if edit:
                last = code[(number - 1) % len(code)]
                found.append((f"that line in {last.path} taken back", _undo(last.path)))
            case "touch" if edit:
                found.append((f"a touch of {edit.path}, and nothing else", _touch(edit.path)))
            case "shared" if shared:
                found.append((f"a line in {shared.path}, which several images share", shared.apply))
            case "requirements" if packages:
                found.append((f"a line in {packages[0].path}", packages[0].apply))
            case "documentation":
                found.append(("a line in REPLAY.md, which no image reads", edits.Edit("REPLAY.md", "-").apply))
    return found


def commits(repository: Path, count: int) -> list[tuple[str, Apply]]:
    """The last ``count`` commits of the history at ``repository``, oldest first; ``UserError`` where there is none."""
    argv = ["git", "-C", str(repository), "log", "--first-parent", f"--max-count={count}", "--format=%H %h %s"]
    done = commands.run(argv)
    if done.status:
        raise UserError(f"no git history can be read here: {done.why}", where=str(repository))
    lines = [line.split(" ", 1) for line in reversed(done.stdout.splitlines())]
    return [(said, _checked_out(repository, commit)) for commit, said in lines]


def replay(
    both: SideBySide, edits_: Sequence[tuple[str, Apply]], told: Callable[[str], None] = lambda line: None
) -> Replay:
    """Apply the edits one by one and build both ways after each; a build that fails is tried again. The first state is
    built before, and not counted."""
    standard = load((both.standard_file,), both.standard_environ)
    auditor = _Auditor(both)
    told("building the state before the first edit, both ways")
    auditor.optimized(_optimized(both, told))
    auditor.needed()
    auditor.standard(standard)
    applied, left = [], measure.TimeLeft()
    for number, (what, apply) in enumerate(edits_, 1):
        began = time.monotonic()
        apply(both.folder, f"replay {number}")
        optimized = auditor.optimized(_optimized(both, told))
        needed = auditor.needed()
        one = Applied(what, optimized, auditor.standard(standard), needed)
        applied.append(one)
        ours, theirs = one.optimized, one.standard
        left.took("edit", time.monotonic() - began)
        told(
            f"{number}/{len(edits_)} {what}: built {', '.join(ours.built) or 'nothing'} in {ours.seconds:.1f} s; "
            f"standard built {', '.join(theirs.built) or 'nothing'} in {theirs.seconds:.1f} s"
            f"{left.of(['edit'] * (len(edits_) - number))}"
        )
    return Replay(applied)


def _optimized(both: SideBySide, told: Callable[[str], None]) -> float:
    """The seconds of our build."""
    return measure.tried(lambda: {"": both.build_optimized().seconds}, told)[""]


class _Auditor:
    """Counts what the builds of one ``SideBySide`` did."""

    def __init__(self, both: SideBySide) -> None:
        self._both = both
        self._workspace = both.run()
        self._seen = 0
        self._steps: dict[str, tuple[int, int]] = {}
        self._executed: set[str] = set()

    def optimized(self, seconds: float) -> Count:
        """What the last run of doit did, from its own history."""
        known = self._workspace.history.recent(limit=1000)
        recent = [build for build in known if build.id > self._seen and build.action == Action.BUILD]
        for build in reversed([build for build in known if build.action == Action.BUILD]):
            self._steps[build.image] = (build.work_steps, build.cached_steps)
        self._seen = max((build.id for build in known), default=0)
        built = tuple(sorted({build.image for build in recent}))
        self._executed = {build.image for build in recent if build.cached_steps < build.work_steps}
        steps = sum(total for total, _ in self._steps.values())
        executed = sum(total - cached for name, (total, cached) in self._steps.items() if name in built)
        return Count(built, steps, steps - executed, seconds)

    def needed(self) -> tuple[str, ...]:
        """The images that BuildKit found work in: in our builds, and in what Compose says, given to it once more."""
        environ = {**self._both.optimized_environ, **judge.ENVIRON}
        targets = judge.targets((self._both.optimized_file,), environ)
        argv = ["docker", "buildx", "bake", "--progress=rawjson", "--file", "-"]
        progress, _ = _followed(argv, environ, judge.definition(targets, environ, output=["type=cacheonly"]))
        worked = progress.begun()
        # Of one target alone, bake does not say the name.
        found = {step.stage.split(" ")[0] for step in worked} if len(targets) > 1 else {*targets} if worked else set()
        return tuple(sorted(self._executed | {name for name in targets if judge.called(name) in found}))

    def standard(self, project: Project) -> Count:
        """Build every standard image, and count."""
        built, steps, reused, seconds = [], 0, 0, 0.0
        for name, image in project.images.items():
            iidfile = str(self._both.folder / ".replay.iid")
            argv = buildx.build_argv(
                image, parents={}, labels={}, iidfile=iidfile, environ=self._both.standard_environ, extra=()
            )
            progress, took = _followed(argv, self._both.standard_environ)
            work = [step for step in progress.steps if step.work and step.index]
            cached = sum(step.cached for step in work)
            steps, reused, seconds = steps + len(work), reused + cached, seconds + took
            built += [name] if cached < len(work) else []
        return Count(tuple(sorted(built)), steps, reused, seconds)


def _followed(argv: Sequence[str], environ: Mapping[str, str], stdin: bytes | None = None) -> tuple[Progress, float]:
    """What a build did, and its seconds. One that fails is tried again, as downloads drop: ``UserError`` after
    ``measure.TRIES``."""
    for _ in range(measure.TRIES):
        progress, began = Progress(), time.perf_counter()
        done = commands.run(argv, env=environ, stdin=stdin, stderr=commands.STDOUT)
        progress.feed(done.output)
        progress.finish()
        if done.status == 0:
            return progress, time.perf_counter() - began
    raise UserError(f"`{' '.join(argv[:3])} …` failed, so nothing is counted:\n{progress.tail}")


def _touch(path: str) -> Apply:
    return lambda folder, salt: os.utime(folder / path)


def _undo(path: str) -> Apply:
    """Take back the last edit of a file: an ``Edit`` is two lines."""

    def undo(folder: Path, salt: str) -> None:
        file = folder / path
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))

    return undo


def _checked_out(repository: Path, commit: str) -> Apply:
    """Make the folder hold exactly what the commit does, touching only the files that differ."""

    def check_out(folder: Path, salt: str) -> None:
        environ = {**os.environ, "GIT_INDEX_FILE": str(folder / OWN_FOLDER / "replay.index")}
        (folder / OWN_FOLDER).mkdir(exist_ok=True)
        argv = ["git", "-C", str(repository), f"--work-tree={folder}", "read-tree", "--reset", "-u", commit]
        commands.run(argv, env=environ).checked(f"git cannot check out {commit[:10]}")

    return check_out
