"""What would we have built, and what was needed, over the last commits of somebody's history?

    .venv/bin/python benchmarks/replay_history.py REPOSITORY --file docker-compose.yml [--commits 100] [--name NAME]

REPOSITORY is a git repository on this machine. Its commits are checked out one by one into a temporary folder, and
`doit plan` says which images it would build. Nothing of the project is run: its bases and packages may be out of reach.
The figures are added to replay_history.json and .md under NAME.

What was needed is BuildKit's word: for each image it builds a Dockerfile that copies what the real one reads (every
COPY, ADD and bind mount, from the same contexts, through the same ignore files) and a text of the real
one's instructions. An image was needed when that executes a step, or when one that it builds on was needed.
Three ways are counted against it: building all images at each commit, as `docker compose build` and most CI jobs do;
building those whose context folder holds a changed file, as path filters do; and ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import measuring_engine
from benchmarks.replay import commits
from benchmarks.results import say
from tasks.base import commands
from tasks.base.errors import UserError
from tasks.buildkit.progress import Progress
from tasks.inputs import dockerfile, ignorefile
from tasks.inputs.image_inputs import ImageInputs
from tasks.run import Run

HERE = Path(__file__)
PLATFORM = "linux/amd64"


@dataclass
class Tally:
    """The sums over one history."""

    commits: int = 0
    passed_over: int = 0
    images: set[str] = field(default_factory=set)
    every: int = 0
    by_folder: int = 0
    ours: int = 0
    needed: int = 0
    missed: list[str] = field(default_factory=list)
    needless: dict[str, int] = field(default_factory=dict)


class Judge:
    """BuildKit, given only what each Dockerfile reads."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder

    def executed(self, images: Mapping[str, ImageInputs]) -> set[str]:
        """The images for which BuildKit found anything that it had not seen before."""
        targets = {}
        for name, one in images.items():
            home = self._folder / name
            home.mkdir(parents=True, exist_ok=True)
            (home / "Dockerfile").write_text(_reduced(one))
            ignore = ignorefile.load(ignorefile.effective(Path(one.image.context), Path(one.image.dockerfile)))
            (home / "Dockerfile.dockerignore").write_text(ignore.text)
            targets[name.replace(".", "_")] = {
                "context": one.image.context,
                "dockerfile": str(home / "Dockerfile"),
                "contexts": {part.label: str(part.root) for part in one.parts if part.label},
                "output": ["type=cacheonly"],
            }
        definition = json.dumps({"group": {"default": {"targets": list(targets)}}, "target": targets})
        argv = ["docker", "buildx", "bake", "--progress=rawjson", "--file", "-"]
        done = commands.run(argv, env=self._environ, stdin=definition.encode(), stderr=commands.STDOUT)
        progress = Progress()
        progress.feed(done.output)
        progress.finish()
        if done.status:
            raise SystemExit(f"BuildKit cannot judge: {progress.tail}")
        found = {step.stage.split(" ")[0] for step in progress.steps if step.work and step.index and not step.cached}
        return {name for name in images if name.replace(".", "_") in found}


def _reduced(one: ImageInputs) -> str:
    """A Dockerfile that copies what the real one reads, each source to a place of its own, and runs nothing."""
    lines = ["FROM scratch", "COPY <<END /made", f"{one.name} {_instructions(one)}", "END"]
    found = dockerfile.reads(
        one.dockerfile_text,
        where=one.name,
        target=one.image.target,
        args={name: value for name, value in one.image.args.items() if value is not None},
        named=sorted(one.image.contexts),
        platform=PLATFORM,
        build_platform=PLATFORM,
        onbuild={},
        env={},
    )
    for number, copy in enumerate(found.copies):
        if copy.context and copy.context not in {part.label for part in one.parts}:
            continue  # another image, or a source that is out of reach
        sources = json.dumps([*("." if source == "/" else source for source in copy.sources), f"/{number}/"])
        options = [f"--from={copy.context}"] if copy.context else []
        options += [f"--exclude={pattern}" for pattern in copy.exclude] + ["--parents"] * copy.parents
        lines.append(" ".join(["COPY", *options, sources]))
    return "\n".join([*lines, ""])


def _instructions(one: ImageInputs) -> str:
    """A digest of what the real Dockerfile says, comments and empty lines aside, and of its settings."""
    said = [
        line.strip() for line in one.dockerfile_text.splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    return hashlib.sha256(json.dumps([said, dict(one.settings)], sort_keys=True).encode()).hexdigest()


def replay(repository: Path, file: str, count: int, environ: Mapping[str, str]) -> Tally:
    """Go through the history and count."""
    tally = Tally()
    seen: dict[str, set[str]] = {}
    last = ""
    with tempfile.TemporaryDirectory(prefix="bm-history-") as temporary:
        folder = Path(temporary) / "work"
        folder.mkdir()
        judge = Judge(environ, Path(temporary) / "judge")
        for number, (said, check_out) in enumerate(commits(repository, count + 1)):
            check_out(folder, "")
            commit = said.split(" ", 1)[0]
            try:
                inputs = plan(folder / file, environ)
            except UserError as error:
                tally.passed_over += 1
                say(f"{commit} is passed over: {error}")
                last = commit
                continue
            good = {name: one for name, one in inputs.items() if not one.problem}
            executed = judge.executed(good)
            needed: set[str] = set()
            ours: set[str] = set()
            for name, one in good.items():  # parents before children
                parents = set(one.parents.values())
                if name in executed or parents & needed:
                    needed.add(name)
                if one.fingerprint not in seen.setdefault(name, set()):
                    ours.add(name)
                    seen[name].add(one.fingerprint)
            if number == 0 or not tally.images:
                tally.images |= set(good)
                last = commit
                continue  # the first state is where everybody starts
            argv = ["git", "-C", str(repository), "diff", "--name-only", "-z", last, commit]
            changed = commands.run(argv).checked("git").stdout.split("\0")
            last = commit
            tally.commits += 1
            tally.images |= set(good)
            tally.every += len(good)
            tally.by_folder += len(touched(good, folder, changed))
            tally.ours += len(ours)
            tally.needed += len(needed)
            tally.missed += [f"{commit} {name}" for name in needed - ours]
            for name in ours - needed:
                tally.needless[name] = tally.needless.get(name, 0) + 1
            say(f"{number}/{count} {said[:60]}: ours {len(ours)}, needed {len(needed)} of {len(good)}")
    return tally


def plan(file: Path, environ: Mapping[str, str]) -> dict[str, ImageInputs]:
    """What each image of the project is made of at this commit."""
    if not file.is_file():
        raise UserError(f"there is no {file.name}")
    run = Run((file,), {**environ, "COMPOSE_FILE": str(file)})
    found = run.resolver.resolve(PLATFORM, lambda ref, platforms: None)
    run.resolver.keep()
    return found


def touched(images: Mapping[str, ImageInputs], folder: Path, changed: Sequence[str]) -> set[str]:
    """The images whose context folder, or Dockerfile, holds a changed file, and those that build on them."""
    paths = [folder / path for path in changed if path]
    found: set[str] = set()
    for name, one in images.items():
        places = [Path(one.image.context), Path(one.image.dockerfile)]
        if any(path.is_relative_to(place) for path in paths for place in places) or found & set(one.parents.values()):
            found.add(name)
    return found


def main() -> None:
    """Count, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--file", default="docker-compose.yml")
    parser.add_argument("--commits", type=int, default=100)
    parser.add_argument("--name", default="")
    given = parser.parse_args()
    with measuring_engine() as engine:
        environ = {name: value for name, value in engine.items() if not name.startswith("COMPOSE_")}
        tally = replay(given.repository, given.file, given.commits, environ)
    keep(given.name or given.repository.name, tally)


def keep(name: str, tally: Tally) -> None:
    """Add the figures to those of other histories."""
    figures = HERE.with_suffix(".json")
    kept = json.loads(figures.read_text()) if figures.exists() else {}
    kept[name] = {
        "commits": tally.commits,
        "passed_over": tally.passed_over,
        "images": len(tally.images),
        "all_at_each_commit": tally.every,
        "by_context_folder": tally.by_folder,
        "ours": tally.ours,
        "needed": tally.needed,
        "missed": len(tally.missed),
        "needless": sum(tally.needless.values()),
    }
    figures.write_text(json.dumps(kept, indent=1) + "\n")
    heads = ["history", "commits", "images", "all at each commit", "by context folder", "ours", "needed", "missed"]
    lines = ["# Images built over public histories", "", *(__doc__ or "").strip().splitlines()[4:], ""]
    lines += ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for label, one in kept.items():
        numbers = [
            one[key]
            for key in ("commits", "images", "all_at_each_commit", "by_context_folder", "ours", "needed", "missed")
        ]
        lines.append(f"| {label} | " + " | ".join(map(str, numbers)) + " |")
    text = "\n".join([*lines, ""])
    HERE.with_suffix(".md").write_text(text)
    print(text)
    for missed in tally.missed:
        print(f"missed: {missed}", file=sys.stderr)


if __name__ == "__main__":
    main()
