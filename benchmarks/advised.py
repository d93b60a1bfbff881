"""How much of what was gained by hand does `advise --apply` give alone?

.venv/bin/python benchmarks/advised.py [IMAGE …] [--repeat 5] [--busy]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import edits, measure
from benchmarks.newer_engine import HERE
from benchmarks.peers import Bench, committed, stack_copy
from benchmarks.results import Results, say
from doit_images.core.base import commands

ABOUT = """
Three copies of this repository in one engine: the standard images (docker/*/standard.Dockerfile, where the guide
began), the same after `doit advise --apply` and nothing else, and the images that were made by hand. A line is put at
the end of a file that only one image is made of, and `doit build_optimized` builds it, in turns; the size is what the
engine says. What is missing is (advised - by hand) / (standard - by hand): 0.2 is 80 % of it. `advise` proves each
patch by building and comparing, so of a size it gives only what stays the same image. With `--busy` nothing waits for a
quiet machine: then read the ratios, and look at the load.
"""
_MISSING = 0.2
_COMPOSE = {
    "standard": "docker-compose.yml",
    "advised": "docker-compose.yml",
    "by hand": "docker-compose.optimized.yml",
}


def copies(bench: Bench) -> dict[str, Bench]:
    """A copy of the stack for each way, the advised one with a commit: nothing is written over what has none."""
    folder, found = bench.compose_file().parent, dict[str, Bench]()
    for way, file in _COMPOSE.items():
        place = shutil.copytree(folder, folder.parent / way.replace(" ", "-"), symlinks=True)
        found[way] = replace(bench, environ={**bench.environ, "COMPOSE_FILE": str(place / file)})
    committed(found["advised"].compose_file().parent)
    return found


def advise(bench: Bench, images: Sequence[str]) -> str:
    """Let `advise` write what it proves; what it came to, in words."""
    began = time.monotonic()
    patches = json.loads(bench.doit("advise", *images, "--apply", "--json").stdout)["patches"]
    told = [f"{each['dockerfile']}: {each['rule']}: {_verdicts(each['proofs'].values())}" for each in patches]
    say("\n".join([*told, f"advised in {time.monotonic() - began:.0f} s"]))
    good = [line for line in told if line.endswith(("same", "same but for"))]
    return f"{len(good)} patches written, {len(told) - len(good)} thrown away"


def _verdicts(proofs: Collection[Mapping[str, Any]]) -> str:
    return "; ".join(" ".join([one["verdict"], *one["differs"][:3]]) for one in proofs)


def edited(results: Results, ways: Mapping[str, Bench], images: Sequence[str], repeat: int, *, busy: bool) -> None:
    """The seconds after a line of code, and of a list of packages, of each service of its own."""
    inputs = {each["name"]: each["inputs"] for each in ways["by hand"].plan()}
    for what, find in (("code", edits.code_of), ("dependencies", edits.requirements_of)):
        sums = dict.fromkeys(ways, 0.0)
        for image in edits.services(images, inputs):
            if edit := find(image, inputs):
                cases = {way: functools.partial(_build, bench, edit, image) for way, bench in ways.items()}
                load = os.getloadavg()[0] if busy else measure.wait_until_quiet(say)
                times = measure.in_turns(cases, repeat, say)
                results.timed(f"{what} of {image}", times, load)
                sums = {way: seconds + times[way].median for way, seconds in sums.items()}
        add(results, f"{', '.join(images)}: after a change of {what}", sums, "s", 1.0)


def _build(bench: Bench, edit: edits.Edit, image: str) -> float:
    edit.apply(bench.compose_file().parent, str(time.time_ns()))
    return bench.doit(f"build_optimized:{image}").seconds


def sizes(ways: Mapping[str, Bench], images: Collection[str]) -> dict[str, float]:
    """The bytes of these images together, each way."""
    found = {}
    for way, bench in ways.items():
        bench.doit(*(f"build_optimized:{image}" for image in images))
        kind = "optimized" if way == "by hand" else "standard"
        argv = ["docker", "image", "inspect", "--format", "{{.Size}}", *(f"vllm-swarm/{one}:{kind}" for one in images)]
        said = commands.run(argv, env=bench.environ).checked("docker image inspect").stdout
        found[way] = float(sum(map(int, said.split())))
    return found


def add(results: Results, what: str, found: Mapping[str, float], unit: str, scale: float) -> None:
    """What is missing of a gain, with the figures that it is made of."""
    standard, advised, by_hand = found.values()
    note = f"{standard / scale:.1f} {unit}, advised {advised / scale:.1f} {unit}, by hand {by_hand / scale:.1f} {unit}"
    missing = (advised - by_hand) / (standard - by_hand)
    results.add(f"{what}: missing of the gain", missing, "of it", _MISSING, note)


def main() -> None:
    """Advise, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", default=["auth", "memory", "orchestrator", "postgres", "redis"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="do not wait for a quiet machine")
    given = parser.parse_args()
    with Results(Path(__file__), "Advised, against made by hand", ABOUT) as results, stack_copy() as bench:
        results.on(HERE, bench.environ)
        ways = copies(bench)
        told = advise(ways["advised"], given.images)
        add(results, f"{', '.join(given.images)}: size", sizes(ways, given.images), "MB", 1e6)
        results.rows[-1]["note"] += f"; {told}"
        edited(results, ways, given.images, given.repeat, busy=given.busy)


if __name__ == "__main__":
    main()
