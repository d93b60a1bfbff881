"""What does it cost to get an image out of a dedicated builder?

    .venv/bin/python benchmarks/dedicated.py [--repeat 5] [--megabytes 850]

Needs root and dockerd. The builder is a `remote` one: the BuildKit of a second engine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import temporary_engine
from tasks.base import commands
from tasks.buildkit import oci_transfer
from tasks.engine.client import Engine
from tests import loopback

ABOUT = """
One image: the base, a large layer of random bytes, and a small file that changes. A remote BuildKit builds it (the one
of a second engine on the same machine), and this engine gets it: by `doit build_optimized`, which fetches the layers
that are missing, and by `docker buildx build --load`, which sends the whole image. Everything is cached but the change.
This engine keeps its images in the classic store.
"""
COMPOSE = """
services:
  large:
    image: bm-dedicated/large
    build: {context: .}
"""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=850)
    given = parser.parse_args()
    commands.stop_on_signals()
    builder = f"bm-remote-{os.getpid()}"
    with Results(Path(__file__), "Out of a dedicated builder", ABOUT) as results, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        _, base = copied_stack(folder / "stack")
        near = stack.enter_context(temporary_engine("bm-near-"))
        far = stack.enter_context(temporary_engine("bm-far-", containerd_store=True))
        near.load(base)
        endpoint = stack.enter_context(loopback.grpc_of_engine(folder, far.address.removeprefix("unix://")))
        project = folder / "project"
        project.mkdir()
        (project / "compose.yml").write_text(COMPOSE)
        (project / "Dockerfile").write_text(
            f"FROM {base}\nRUN head -c {given.megabytes}000000 /dev/urandom > /large\nCOPY small /\n"
        )
        settings = {"BUILDER_DRIVER": "remote", "BUILDER_NAME": builder, "BUILDER_ENDPOINTS": endpoint}
        bench = Bench({**near.environ, "COMPOSE_FILE": str(project / "compose.yml"), **settings}, folder / "bench")
        _edit(project)
        stack.callback(commands.run, ["docker", "buildx", "rm", "--force", builder], cleanup=True)
        say(f"the first time: {bench.doit('build_optimized').seconds:.1f} s")
        engine = Engine(near.address)
        local_image = engine.snapshot().get(base)
        if local_image is None:
            raise SystemExit(f"{base} is not in the engine")
        context = oci_transfer.context_of(engine, folder / "results", base, local_image, engine.snapshot().platform)
        load = [
            "docker", "buildx", "build", "--builder", builder, "--load", "--tag", "bm-dedicated/load",
            "--provenance=false", "--build-context", f"{base}={context}", str(project),
        ]  # fmt: skip
        measure.run(load, env=near.environ)

        def ours(change: bool) -> float:
            if change:
                _edit(project)
            return bench.doit("build_optimized").seconds

        def loaded(change: bool) -> float:
            if change:
                _edit(project)
            return measure.run(load, env=near.environ).seconds

        for what, change, goal in (("nothing changed", False, 0.05), ("one small file changed", True, 0.15)):
            cases = {
                "doit build_optimized": lambda change=change: ours(change),
                "docker buildx build --load": lambda change=change: loaded(change),
            }
            mine, whole = results.measured(what, cases, given.repeat).values()
            note = f"{mine:.2f} s against {whole:.2f} s, {whole / mine:.0f} times faster"
            results.add(f"{what}, against --load", mine / whole, "×", goal, note)


def _edit(project: Path) -> None:
    (project / "small").write_text(str(time.time_ns()))


if __name__ == "__main__":
    main()
