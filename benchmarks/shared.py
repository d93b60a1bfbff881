"""What does a second machine pay for what a first one has built?

    .venv/bin/python benchmarks/shared.py [--repeat 3]

Needs root, dockerd and Debian's docker-registry: each command has an engine of its own, emptied before each run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from tasks.base import commands
from tests import loopback

ABOUT = """
A first machine built this stack and shared it through a registry on loopback. The second one's engine holds the base
image and nothing else. `doit build_optimized` pulls finished images (classic store); bake imports BuildKit's cache from
the same registry, written with `mode=max` (containerd store: the classic one cannot export it), and has to make the
images from it; `cold` is `doit build_optimized` without a registry, its packages coming over the network. In turns.
"""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    commands.stop_on_signals()
    results = Results(Path(__file__), "A second machine, with a shared registry", ABOUT)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        registry = stack.enter_context(loopback.registry(folder / "registry")).address
        compose_file, base = copied_stack(folder / "stack")
        first = stack.enter_context(temporary_engine("bm-first-"))
        second = stack.enter_context(temporary_engine("bm-second-"))
        baker = stack.enter_context(temporary_engine("bm-baker-", containerd_store=True))
        for engine in (first, second, baker):
            engine.load(base)
        project = {"COMPOSE_FILE": str(compose_file)}
        shared = {"CACHE_REGISTRY": registry, "CACHE_BACKEND": "none"}
        sharing = Bench({**first.environ, **project, **shared}, folder / "first")
        pulling = Bench({**second.environ, **project, **shared}, folder / "second")
        alone = Bench({**second.environ, **project}, folder / "alone")
        baking = Bench({**baker.environ, **project}, folder / "baker")
        baking.prepare()
        cache = _cache_options(folder / "baker" / "bake.json", registry)
        say(f"first machine: {sharing.doit('build_optimized').seconds:.1f} s to build and push")
        say(f"first machine: {baking.bake(*cache['to']).seconds:.1f} s for bake to build and export")

        def emptied(bench: Bench, engine: TemporaryEngine) -> Bench:
            engine.forget_everything([base])
            shutil.rmtree(compose_file.parent / ".build", ignore_errors=True)
            return bench

        def pull() -> float:
            ran = emptied(pulling, second).doit("build_optimized")
            if any(line.startswith("built ") for line in ran.stderr.splitlines()):
                raise SystemExit(f"something was built:\n{ran.stderr}")
            return ran.seconds

        cases = {
            "doit, shared registry": pull,
            "bake, registry cache": lambda: emptied(baking, baker).bake(*cache["from"]).seconds,
            "cold": lambda: emptied(alone, second).doit("build_optimized").seconds,
        }
        times = measure.in_turns(cases, repeat, say)
    results.timed("a second machine", times)
    pulled, baked, cold = (timing.median for timing in times.values())
    results.add("shared registry, against bake", pulled / baked, "×", 1.0, f"{pulled:.1f} s against {baked:.1f} s")
    results.add("shared registry, against cold", pulled / cold, "×", 0.5, f"{pulled:.1f} s against {cold:.1f} s")
    results.write()


def _cache_options(bake_file: Path, registry: str) -> Mapping[str, list[str]]:
    """What bake is told in order to write and to read a registry cache, one reference for each image."""
    targets = list(json.loads(bake_file.read_text())["target"])
    refs = {name: f"type=registry,ref={registry}/bake/{name}:cache" for name in targets}
    read = [word for name, ref in refs.items() for word in ("--set", f"{name}.cache-from={ref}")]
    written = [word for name, ref in refs.items() for word in ("--set", f"{name}.cache-to={ref},mode=max")]
    return {"from": read, "to": written}


if __name__ == "__main__":
    main()
