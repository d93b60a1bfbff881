"""What does it cost to build the whole stack from nothing?

    .venv/bin/python benchmarks/cold.py [--repeat 5] [--engine testing]

Needs root and dockerd: each command has an engine of its own, emptied before each run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure, newer_engine
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import temporary_engine
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER

ABOUT = """
Each command builds a copy of this stack in an engine of its own that holds the base image, no other image and no build
cache. Only what cache mounts hold stays, the packages that a build before the first round downloaded; package indexes
are still asked over the network, and a round in which a download failed is taken again. Bake gets what
`doit plan --bake` prints; the rounds are in turns.
"""

SETTLE_SECONDS = 10.0  # engines tidy up for a while: whoever came second was 4 s slower


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    newer_engine.option(parser)
    given = parser.parse_args()
    commands.stop_on_signals()
    with Results(Path(__file__), "Everything from nothing", ABOUT) as results, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        compose_file, base = copied_stack(folder / "stack")
        programs = newer_engine.programs(given.engine)
        engines = {
            name: stack.enter_context(temporary_engine(f"bm-{name}-", programs=programs)) for name in ("doit", "bake")
        }
        results.on(given.engine, engines["doit"].environ)
        benches = {}
        for name, engine in engines.items():
            engine.load(base)
            benches[name] = Bench({**engine.environ, "COMPOSE_FILE": str(compose_file)}, folder / name)
            benches[name].prepare()
            say(f"downloading what {name} needs")
            benches[name].doit("build_optimized")

        def cold(name: str, build: Callable[[], measure.Ran]) -> float:
            engines[name].forget_everything([base], cache_mounts=False)
            shutil.rmtree(compose_file.parent / OWN_FOLDER, ignore_errors=True)  # forecasts included
            os.sync()
            time.sleep(SETTLE_SECONDS)
            return build().seconds

        cases = {
            "doit build_optimized": lambda: cold("doit", lambda: benches["doit"].doit("build_optimized")),
            "docker buildx bake": lambda: cold("bake", benches["bake"].bake),
        }
        mine, baked = results.measured("from nothing", cases, given.repeat).values()
        each = list(results.timings.values())[-1]["commands"].values()
        fastest = " against ".join(f"{one['min']:.1f} s" for one in each)
        note = f"{mine:.1f} s against {baked:.1f} s; the fastest {fastest}"
        results.add("everything from nothing, against bake", mine / baked, "×", 1.05, note)


if __name__ == "__main__":
    main()
