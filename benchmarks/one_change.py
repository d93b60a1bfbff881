"""What does a build cost when one file changed?

.venv/bin/python benchmarks/one_change.py [--repeat 7] [--engine testing]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import newer_engine
from benchmarks.peers import Bench, measuring_engine, stack_copy
from benchmarks.projects import environ, write_monorepo
from benchmarks.results import Results, seconds
from doit_images.core.base import commands
from doit_images.core.buildkit import buildx
from doit_images.core.run import Run

ABOUT = """
A line is put at the end of one file, then `doit build_optimized` builds what that concerns; another line, and bare
`docker buildx build` commands, all started at once, build exactly the images concerned. Both in turns, in one engine.
Bake gets a line of its own too, and builds everything, as it does; afterwards, since the engine is busy with 100 images
for a while after that.
"""


@dataclass(frozen=True)
class Change:
    """A file to edit, and the images that it concerns."""

    what: str
    file: Path
    images: tuple[str, ...]


def measured(results: Results, bench: Bench, changes: list[Change], repeat: int) -> None:
    """Time all changes on one project."""
    run = Run((bench.compose_file(),), bench.environ)
    bench.prepare()
    bench.doit("build_optimized")
    bench.bake_seconds()
    for change in changes:

        def edit(change: Change = change) -> None:
            with change.file.open("a") as file:
                file.write(f"\n# {time.time_ns()}\n")

        def ours() -> float:
            edit()
            ran = bench.doit("build_optimized")
            built = {line.split()[1] for line in ran.stderr.splitlines() if line.startswith("built ")}
            if built != set(change.images):  # noqa: B023
                raise SystemExit(f"built {sorted(built)}, not {sorted(change.images)}")  # noqa: B023
            return ran.seconds

        def bare() -> float:
            edit()
            return together([bare_build(run, name) for name in change.images], bench)  # noqa: B023

        def bake() -> float:
            edit()
            return bench.bake_seconds()

        ours(), bare()  # the first of each comes while the engine still tidies up
        cases = {"doit build_optimized": ours, "docker buildx build": bare}
        mine, plain = results.measured(change.what, cases, repeat).values()
        rounds = max(3, repeat // 2)
        (baked,) = results.measured(f"{change.what}, with bake", {"docker buildx bake": bake}, rounds).values()
        note = f"{mine:.2f} s against {plain:.2f} s; bake {seconds(baked)}"
        results.add(f"{change.what}: time beyond 1.15 × bare builds", mine - 1.15 * plain, "s", 0.3, note)


def bare_build(run: Run, name: str) -> list[str]:
    """The command that builds one image on its parents as they are."""
    one = run.planner.declared()[name]
    parents = {context: run.project.images[parent].ref for context, parent in one.parents.items()}
    tag = ["--tag", f"bm-bare/{name}"]
    argv = buildx.build_argv(
        one.image, parents=parents, labels={}, iidfile="", environ=run.environ, progress="plain", extra=tag
    )
    at = argv.index("--iidfile")
    return argv[:at] + argv[at + 2 :]


def together(argvs: list[list[str]], bench: Bench) -> float:
    """The seconds of commands that run at once; every status is looked at."""
    began = time.perf_counter()
    env = {**bench.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    folder = bench.compose_file().parent
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(commands.start(argv, cwd=folder, env=env)) for argv in argvs]
        said = [b"".join(process.output()) for process in running]
        for process in running:
            process.wait()
        seconds = time.perf_counter() - began
    for process, text in zip(running, said, strict=True):
        if process.returncode:
            raise SystemExit(text.decode(errors="replace"))
    return seconds


@contextlib.contextmanager
def on_stack(programs: Path | None) -> Iterator[tuple[Bench, list[Change]]]:
    """A copy of this repository's stack, in an engine with these programs."""
    with stack_copy(programs) as bench:
        folder = bench.compose_file().parent
        services = ("auth", "memory", "orchestrator")
        yield (
            bench,
            [
                Change("a line of one service", folder / "services/auth/app.py", ("auth",)),
                Change("a line that three services share", folder / "services/common/logs.py", services),
            ],
        )


@contextlib.contextmanager
def on_hundred(programs: Path | None) -> Iterator[tuple[Bench, list[Change]]]:
    """100 images on one base, in an engine with these programs."""
    with measuring_engine(programs) as engine, tempfile.TemporaryDirectory(prefix="bm-") as folder:
        repo = write_monorepo(Path(folder) / "repo", "bm-change", 100, 50)
        bench = Bench(environ(engine, repo.compose), Path(folder))
        yield bench, [Change("a file of one of 100 images", repo.file(42, 7), ("s0042",))]
        bench.remove_all(repo.name)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    newer_engine.option(parser)
    given = parser.parse_args()
    with Results(Path(__file__), "One file changed", ABOUT) as results:
        for project in (on_stack, on_hundred):
            with project(newer_engine.programs(given.engine)) as (bench, changes):
                results.on(given.engine, bench.environ)
                measured(results, bench, changes, given.repeat)


if __name__ == "__main__":
    main()
