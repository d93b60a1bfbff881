"""What does a commit cost in CI before anything is built, and when nothing is to be built?

.venv/bin/python benchmarks/ci_commit.py [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench
from benchmarks.projects import environ, plain, write_monorepo
from benchmarks.results import Results, say
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError

ABOUT = """
`plan --at` tells from git alone what a commit makes due: here in a repository of 100 images and 5,000 files, of a
commit that changes a file of one image, with nothing remembered (as on a new machine of CI) and again. Then this stack,
in a clone, where everything is built and passed its end-to-end tests once: a commit changes the README, and `ci_build`
and `ci_test` are asked. They must not build anything and must not start a stack. No peer has an answer to compare with:
what each asks for is a checkout, an engine and a build of everything from its cache.
"""
_GIT = ("-c", "user.name=bm", "-c", "user.email=bm@example.org")


def hundred(results: Results, repeat: int) -> None:
    """``plan --at`` of a commit among 100 images."""
    with tempfile.TemporaryDirectory(prefix="bm-") as folder:
        repo = write_monorepo(Path(folder) / "repo", "bm-commit", 100, 50)
        git(repo.folder, "init", "--quiet")
        commit(repo.folder, "all")
        repo.file(7, 7).write_text("another line\n")
        commit(repo.folder, "one file of one image")
        bench = Bench(environ(plain(), repo.compose), Path(folder))

        def asked(*, first: bool) -> float:
            if first:
                shutil.rmtree(repo.folder / OWN_FOLDER, ignore_errors=True)
            ran = bench.doit("plan", "--at", "HEAD", "--since", "HEAD~1", "--json")
            due = [image["name"] for image in json.loads(ran.stdout)["images"] if image["action"] != "fresh"]
            if due != ["s0007"]:
                raise UserError(f"the plan of the commit names {due}")
            return ran.seconds

        cases = {"plan --at, for the first time": lambda: asked(first=True), "again": lambda: asked(first=False)}
        first, again = results.measured("100 images, 5,000 files, a commit", cases, repeat).values()
    results.add("plan --at of a commit, 100 images, 5,000 files, for the first time", first, "s", 1)
    results.add("plan --at of a commit, 100 images, 5,000 files, again", again, "s", 1)


def readme(results: Results, repeat: int) -> None:
    """``ci_build`` and ``ci_test`` of a commit that changes the README, in a clone of this repository."""
    root = measure.ROOT
    with tempfile.TemporaryDirectory(prefix="bm-") as folder:
        clone = Path(folder) / "clone"
        git(root, "clone", "--quiet", str(root), str(clone))
        bench = Bench({**plain(), "COMPOSE_FILE": str(clone / "docker-compose.optimized.yml")}, Path(folder))
        say("building the stack, and testing it once")
        bench.doit("ci_build")
        bench.doit("ci_test")
        with (clone / "README.md").open("a") as file:
            file.write("\nOne sentence more.\n")
        commit(clone, "the README")

        def quiet(task: str, nothing: str) -> float:
            ran = bench.doit(task)
            if nothing not in ran.stdout + ran.stderr:
                raise UserError(f"{task} did something:\n{ran.stdout}{ran.stderr}")
            return ran.seconds

        cases = {
            "ci_build": lambda: quiet("ci_build", "7 images fresh"),
            "ci_test": lambda: quiet("ci_test", "passed"),
        }
        build, test = results.measured("a commit that changes the README", cases, repeat).values()
    results.add("ci_build of a commit that changes the README", build, "s", 1, "0 builds")
    results.add("ci_test of a commit that changes the README", test, "s", 1, "0 tests, no stack")


def git(folder: Path, *words: str) -> None:
    """Run git there; ``UserError`` when it fails."""
    commands.run(["git", "-C", str(folder), *_GIT, *words]).checked(f"git {words[0]}")


def commit(folder: Path, message: str) -> None:
    """Commit all that is there."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with Results(Path(__file__), "A commit in CI", ABOUT) as results:
        hundred(results, repeat)
        readme(results, repeat)


if __name__ == "__main__":
    main()
