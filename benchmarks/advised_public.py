"""Which patches does `advise` have for public projects, and what do they come to?

    .venv/bin/python benchmarks/advised_public.py REPOSITORY --file compose.yml [--commits 60] [--name NAME]

REPOSITORY is a git repository on this machine. What is checked out of it goes to a temporary folder; images in which
every program ends at once stand in for all bases (`stand_ins.py`), so nothing of the project is run: `RUN` steps of
theirs have nothing to say. What is proved is that the patched Dockerfile builds, and that the image then has the same
files by `COPY` and `ADD`, with the same modes and owners, and the same configuration. The work is the `RUN` steps that
would have run over the last commits with the Dockerfiles of today, and with those that the proved patches make: a cache
mount makes a step shorter, and not one less. The figures are added to advised_public.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench, measuring_engine
from benchmarks.replay_history import Judge
from benchmarks.results import say
from benchmarks.stand_ins import StandIns
from doit_images.core.base import commands

HERE = Path(__file__)
_NO_ENV = re.compile(r"env file (\S+) not found")
_LESS = 2
_TRIES = 5  # what a patched Dockerfile misses in a stand-in, BuildKit names


def advised(repository: Path, file: str, commits: int, environ: Mapping[str, str]) -> dict[str, Any]:
    """What `advise --prove` says of a project's last commit, in the engine of this environment, in figures."""
    with tempfile.TemporaryDirectory(prefix="bm-advised-") as temporary:
        work = Path(temporary, "work")
        argv = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(work)]
        commands.run(argv).checked("git cannot clone it")
        commands.run(["git", "-C", str(work), "checkout", "--quiet", "--force", "HEAD"])  # large files may be missing
        files = os.pathsep.join(str(work / one) for one in file.split(os.pathsep))
        bench = Bench({**environ, "COMPOSE_FILE": files}, Path(temporary))
        _env_files(bench)
        stand_ins = StandIns(environ)
        built = Judge(bench, stand_ins).build()
        names = [name for name in built.targets if name in built.digests]
        say(f"{len(names)} images can be built")
        bench.doit(*(f"build_optimized:{name}" for name in names))
        for _ in range(_TRIES):
            ran = bench.doit("advise", *names, "--prove", "--commits", str(commits), "--json")
            said = json.loads(ran.stdout)
            proofs = [proof for patch in said["patches"] for proof in patch["proofs"].values()]
            missed = [path for proof in proofs if proof["verdict"] == "fails" for path in proof["differs"]]
            if not stand_ins.learn("\n".join(missed)):
                break
            stand_ins.make()
        row = figures(said, len(names))
        row["why"] += [line for line in ran.stderr.splitlines() if "is not known" in line]
        return row


def _env_files(bench: Bench) -> None:
    """Make those that the project's services name and git does not have: no build reads them."""
    while missing := _NO_ENV.search(commands.run(["docker", "compose", "config"], env=bench.environ).stderr):
        Path(missing[1]).touch()
        with (bench.folder / "work/.dockerignore").open("a") as file:
            file.write("\n**/.env\n")


def figures(said: Mapping[str, Any], images: int) -> dict[str, Any]:
    """One row: how many patches of which verdict, the work before and after, and why patches were thrown away."""
    verdicts, why = Counter[str](), list[str]()
    for patch in said["patches"]:
        of = {proof["verdict"]: proof for proof in patch["proofs"].values()}
        worst = next(verdict for verdict in ("fails", "differs", "not proved", "same but for", "same") if verdict in of)
        verdicts[worst] += 1
        if worst in ("fails", "differs", "not proved"):
            told = ", ".join(of[worst]["differs"][:3]).splitlines()[0]
            why.append(f"{patch['rule']} in {patch['dockerfile']}:{patch['line']} {worst}: {told}")
    saved = said["saved"].values()
    return {
        "images": images,
        "patches": len(said["patches"]),
        "rules": dict(Counter(patch["rule"] for patch in said["patches"])),
        "verdicts": dict(verdicts),
        "commits": max((one["commits"] for one in saved), default=0),
        "before": sum(one["before"]["runs"] for one in saved),
        "after": sum(one["after"]["runs"] for one in saved),
        "why": why,
    }


def main() -> None:
    """Ask, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--file", default="docker-compose.yml", help="several with a colon between them")
    parser.add_argument("--commits", type=int, default=60)
    parser.add_argument("--name", default="")
    given = parser.parse_args()
    with measuring_engine() as engine:
        environ = {name: value for name, value in engine.items() if not name.startswith("COMPOSE_")}
        row = advised(given.repository, given.file, given.commits, environ)
    facts = measure.machine()
    kept = json.loads(HERE.with_suffix(".json").read_text()) if HERE.with_suffix(".json").exists() else {}
    kept[given.name or given.repository.name] = {**row, "run": f"{facts['date']}, {facts['commit']}"}
    measure.keep(HERE, kept, markdown(kept))


def markdown(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all projects, and what was thrown away."""
    lines = ["# What `advise` has for public projects", "", *(__doc__ or "").strip().splitlines()[4:], ""]
    lines += ["| project | images | patches | verdicts | `RUN` steps in so many commits | before | after | × | run |"]
    lines += ["|---|--:|--:|---|--:|--:|--:|--:|---|"]
    for name, one in kept.items():
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in one["verdicts"].items()) or "no patch known"
        work = (one["commits"] or "", one["before"] or "", one["after"] if one["before"] else "", _times(one))
        cells = (name, one["images"], one["patches"], verdicts, *work, one["run"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    less = [one["before"] / max(one["after"], 1) for one in kept.values() if one["before"]]
    if less:
        met = "met" if median(less) >= _LESS else "**missed**"
        lines += ["", f"Less work, the median where it is known: {median(less):.1f} × (goal: {_LESS} ×, {met})."]
    lines += ["", *(f"- {name}: {why}" for name, one in kept.items() for why in one["why"])]
    return "\n".join([*lines, ""])


def _times(one: Mapping[str, Any]) -> str:
    return f"{one['before'] / max(one['after'], 1):.1f}" if one["before"] else ""


if __name__ == "__main__":
    main()
