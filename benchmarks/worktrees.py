"""What does a stack for each worktree cost?

.venv/bin/python benchmarks/worktrees.py [--count 8] [--repeat 3]

Uses the current engine: what it made is removed at the end, with its data.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.ci_commit import git
from benchmarks.peers import Bench
from benchmarks.projects import plain
from benchmarks.results import Results, say
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError

ABOUT = """
A clone of this repository and worktrees of it, each with another line in one service, all up at once on one engine. A
collision is an address that two have, or a service that does not answer at its own. What `up_optimized` costs beyond
the health checks is told by Compose: in turns the second stack is started from nothing by `up_optimized`, its image
being there, and by `docker compose up` with the very files that it made, until all is healthy.
"""
LIMIT = 180.0


class Worktree:
    """One checkout, with a line of its own in ``auth``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with (folder / "services/auth/app.py").open("a") as file:
            file.write(f"\n# {folder.name}\n")
        self._environ = {**plain(), "COMPOSE_FILE": str(folder / "docker-compose.optimized.yml")}
        self._bench = Bench(self._environ, folder)
        self.built = 0
        """How often the service was built here."""

    def doit(self, *words: str) -> measure.Ran:
        """Our doit on this checkout."""
        ran = self._bench.doit(*words)
        self.built += len(re.findall(r"^built auth ", ran.stderr, re.MULTILINE))
        return ran

    def up(self) -> float:
        """The seconds of `up_optimized`."""
        return self.doit("up_optimized").seconds

    def down(self) -> None:
        """Remove its stack and its data."""
        self.doit("down_optimized", "--volumes", "--yes")

    def compose_up(self) -> float:
        """The seconds that Compose alone takes with the same files, until all is healthy."""
        (kept,) = self.folder.glob(f"{OWN_FOLDER}/*/stack.json")
        choice = json.loads(kept.read_text())
        files = [*choice["files"], *(str(kept.with_name(name)) for name in ("beside.yml", "beside-images.json"))]
        argv = ["docker", "compose", "--project-name", choice["name"]]
        argv += [word for file in files if Path(file).exists() for word in ("--file", file)]
        began = time.monotonic()
        measure.run([*argv, "up", "--detach", "--no-build"], cwd=self.folder, env=self._environ)
        while not self._healthy(argv):
            if time.monotonic() - began > LIMIT:
                raise UserError("the stack that Compose started is not healthy")
            time.sleep(0.1)
        return time.monotonic() - began

    def _healthy(self, argv: list[str]) -> bool:
        listed = commands.run([*argv, "ps", "--format", "json"], env=self._environ).checked("docker compose ps").stdout
        return all(json.loads(line)["Health"] == "healthy" for line in listed.splitlines())


@contextmanager
def worktrees(count: int) -> Iterator[list[Worktree]]:
    """A clone and its worktrees; their stacks go at the end, and so do the names of their images."""
    before = _tags()
    with tempfile.TemporaryDirectory(prefix="bm-") as folder:
        main = Path(folder) / "main"
        git(measure.ROOT, "clone", "--quiet", str(measure.ROOT), str(main))
        for number in range(1, count):
            git(main, "worktree", "add", "--quiet", f"../tree{number}")
        trees = [Worktree(Path(folder) / name) for name in ["main", *(f"tree{one}" for one in range(1, count))]]
        try:
            yield trees
        finally:
            trees[0].doit("down_optimized", "--all-worktrees", "--volumes", "--yes")
            if made := _tags() - before:
                commands.run(["docker", "image", "rm", *made]).checked("docker image rm")


def _tags() -> set[str]:
    listed = commands.run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])
    return {tag for tag in listed.checked("docker image ls").stdout.split() if "<none>" not in tag}


def all_at_once(results: Results, trees: list[Worktree]) -> None:
    """All up: builds, collisions, and what of the disk each has for itself."""
    for number, tree in enumerate(trees, 1):
        say(f"{number}/{len(trees)} {tree.folder.name}")
        tree.up()
    ours = {str(tree.folder) for tree in trees}
    stacks = [each for each in _stacks(trees[0]) if each["checkout"] in ours]
    addresses = [address for each in stacks for row in each["services"] for address in row["addresses"].values()]
    silent = [address for address in addresses if not _answers(address)]
    collisions = len(addresses) - len(set(addresses)) + len(silent) + len(trees) - len(stacks)
    note = f"{len(addresses)} addresses"
    results.add(f"{len(trees)} worktrees at once: collisions", collisions, "collisions", 0, note)
    note, built = f"of {len(trees)} different lines", sum(tree.built for tree in trees)
    results.add(f"{len(trees)} worktrees at once: builds of the service", built, "builds", len(trees), note)
    own = max(each["disk"]["images"] for each in stacks)
    results.add(f"{len(trees)} worktrees at once: image disk of each", own / 1e6, "MB", 30)


def _stacks(tree: Worktree) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(tree.doit("ps_optimized", "--all", "--json").stdout)
    return listed


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def second(results: Results, tree: Worktree, repeat: int) -> None:
    """The second stack, from nothing, against Compose alone."""

    def from_nothing(up: Callable[[], float]) -> float:
        tree.down()
        return up()

    tree.up()  # so that its files are there
    cases = {
        "doit up_optimized": lambda: from_nothing(tree.up),
        "docker compose up": lambda: from_nothing(tree.compose_up),
    }
    ours, compose = results.measured("the second stack, from nothing", cases, repeat).values()
    note = f"{ours:.1f} s against {compose:.1f} s"
    results.add("the second stack: time beyond Compose's own", ours - compose, "s", 5, note)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    os.environ.pop("STACK_NAME", None)
    with Results(Path(__file__), "A stack for each worktree", ABOUT) as results, worktrees(given.count) as trees:
        trees[0].up()
        second(results, trees[1], given.repeat)
        all_at_once(results, trees)


if __name__ == "__main__":
    main()
