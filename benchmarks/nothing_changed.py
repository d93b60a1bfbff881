"""What does a run cost when nothing changed?

.venv/bin/python benchmarks/nothing_changed.py [--repeat 9] [--engine testing] [--skip PART]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure, newer_engine
from benchmarks.peers import Bench, measuring_engine, stack_copy
from benchmarks.projects import environ, plain, write_monorepo
from benchmarks.results import Results, say

ABOUT = """
Everything was built just before; then each command is run in turns with the others. `bare doit` is a doit with as many
tasks and file dependencies that looks at nothing else. Peers build the same graph: Compose with `docker-image:`
contexts (with `service:` ones from 2.40 on, which builds through bake), bake from `doit plan --bake`. Ratios are
against the faster of the two in the same rounds.
"""


def stack(results: Results, repeat: int, engine: str) -> None:
    """This repository's own stack: in the current engine, or a copy of it in another."""
    with contextlib.ExitStack() as opened:
        if engine == newer_engine.HERE:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="bm-"))
            bench = Bench(plain(), Path(folder))
        else:
            bench = opened.enter_context(stack_copy(newer_engine.programs(engine)))
        results.on(engine, bench.environ)
        say("building the stack, and again with each peer")
        bench.doit("build_optimized")
        bench.prepare()
        bench.build_with_peers()
        bare = bench.bare_doit()
        cases = {
            "doit build_optimized": lambda: bench.doit("build_optimized").seconds,
            "docker compose build": lambda: bench.compose().seconds,
            "docker buildx bake": lambda: bench.bake_seconds(),
            "bare doit": lambda: measure.run(bare, env=bench.environ).seconds,
        }
        ours, compose, bake, alone = results.measured("this stack", cases, repeat).values()
        bench.remove_all("bm-bake")
    results.add("this stack, against the faster peer", ours / min(compose, bake), "×", 0.5)
    results.add("this stack", ours, "s", 0.25)
    results.add("this stack, against a bare doit", ours / alone, "×", 2)


def hundred(results: Results, repeat: int, engine: str) -> None:
    """100 images on one base, 5,000 files, against both peers."""
    programs = newer_engine.programs(engine)
    with measuring_engine(programs) as own, tempfile.TemporaryDirectory(prefix="bm-") as folder:
        repo = write_monorepo(Path(folder) / "repo", "bm-hundred", 100, 50)
        bench = Bench(environ(own, repo.compose), Path(folder))
        results.on(engine, bench.environ)
        say("building 100 images, and again with each peer")
        bench.doit("build_optimized")
        bench.prepare()
        bench.build_with_peers()
        cases = {
            "doit build_optimized": lambda: bench.doit("build_optimized").seconds,
            "docker compose build": lambda: bench.compose().seconds,
            "docker buildx bake": lambda: bench.bake_seconds(),
        }
        ours, compose, bake = results.measured("100 images, 5,000 files", cases, max(5, repeat // 3)).values()
        bench.remove_all(repo.name)
    results.add("100 images, 5,000 files, against the faster peer", ours / min(compose, bake), "×", 0.08)
    results.add("100 images, 5,000 files", ours, "s", 0.22)


def thousand(results: Results, repeat: int, engine: str) -> None:
    """1,000 images and 100,000 files against 100 and 10,000: growth and memory."""
    programs = newer_engine.programs(engine)
    with measuring_engine(programs) as own, tempfile.TemporaryDirectory(prefix="bm-") as folder:
        results.on(engine, own)
        benches = {}
        for count in (100, 1000):
            repo = write_monorepo(Path(folder) / f"repo{count}", f"bm-grow{count}", count, 100)
            benches[count] = bench = Bench(environ(own, repo.compose), Path(folder) / f"bench{count}")
            say(f"building {count} images")
            bench.doit("build_optimized")
        peaks: dict[int, int] = {}

        def ours(count: int) -> float:
            ran = benches[count].doit("build_optimized")
            peaks[count] = max(peaks.get(count, 0), ran.peak)
            return ran.seconds

        empty = Path(folder) / "empty.py"
        empty.write_text("DOIT_CONFIG = {'backend': 'sqlite3'}\ndef task_none():\n    return {'actions': None}\n")
        cases = {
            "100 images, 10,000 files": lambda: ours(100),
            "1,000 images, 100,000 files": lambda: ours(1000),
            "doit with one empty task": lambda: benches[100].bare(empty),
        }
        small, large, start = results.measured("growth", cases, repeat).values()
        for count in benches:
            benches[count].remove_all(f"bm-grow{count}")
    growth = (large - start) / (10 * (small - start))
    each = (large - start) / 100_000 * 1e6
    results.add("1,000 images, 100,000 files", large, "s", 1.3)
    results.add(
        "time per image and file at 1,000 and 100,000, against 100 and 10,000",
        growth,
        "×",
        1.1,
        f"{each:.0f} µs a file with its share of the image",
    )
    results.add(
        "peak memory at 1,000 images, 100,000 files", peaks[1000] / 1e6, "MB", 250, f"{peaks[100] / 1e6:.0f} MB at 100"
    )


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--skip", action="append", default=[], choices=["stack", "hundred", "thousand"])
    newer_engine.option(parser)
    given = parser.parse_args()
    with Results(Path(__file__), "Nothing changed", ABOUT) as results:
        for part in (stack, hundred, thousand):
            if part.__name__ not in given.skip:
                part(results, given.repeat, given.engine)


if __name__ == "__main__":
    main()
