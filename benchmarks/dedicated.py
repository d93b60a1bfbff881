"""What does it cost to get an image out of a dedicated builder?

    .venv/bin/python benchmarks/dedicated.py [--repeat 5] [--megabytes 850] [--store classic] [--store containerd]

Needs root, dockerd and Debian's docker-registry. The builder is a `remote` one: the BuildKit of a second engine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.buildkit import oci_transfer
from doit_images.core.engine.client import Engine
from tests import loopback

ABOUT = """
One image: the base, a large layer of random bytes, and a small file that changes. A remote BuildKit builds it (the one
of a second engine on the same machine), and this engine gets it: by `doit build_optimized`, which hands over the blobs
that are missing; by `docker buildx build --load`, which sends the whole image; and by `docker buildx build --push` to a
registry on loopback and `docker pull` from it, which also send what is missing, and need that registry. Everything is
cached but the change. Once with the engine's classic store and once with containerd's, the default of new engines.
"""
COMPOSE = """
services:
  large:
    image: bm-dedicated/large
    build: {context: .}
"""
STORES = ("classic", "containerd")
# By how much ours may take the time of the others: what changed, of --load, of push and pull.
GOALS = (("nothing changed", False, 0.05, 1.0), ("one small file changed", True, 0.15, 1.15))


@dataclass(frozen=True)
class Ways:
    """The ways by which the engine of ``bench`` gets the image of the project that lies in ``folder``; ``context``
    stands for its base."""

    bench: Bench
    folder: Path
    builder: str
    base: str
    context: str
    registry: str

    def ours(self) -> float:
        """The seconds of our doit."""
        return self.bench.doit("build_optimized").seconds

    def loaded(self) -> float:
        """The seconds of a build that sends the whole image."""
        return self._build("--load", "--tag", "bm-dedicated/load")

    def pulled(self) -> float:
        """The seconds of a build that pushes to a registry, and of a pull from there."""
        ref = f"{self.registry}/dedicated"
        pushed = self._build("--push", "--tag", ref)
        return pushed + measure.run(["docker", "pull", "--quiet", ref], env=self.bench.environ).seconds

    def edit(self) -> None:
        """Change the small file."""
        (self.folder / "small").write_text(str(time.time_ns()))

    def _build(self, *words: str) -> float:
        argv = ["docker", "buildx", "build", "--builder", self.builder, *words, "--provenance=false"]
        argv += ["--build-context", f"{self.base}={self.context}", str(self.folder)]
        return measure.run(argv, env=self.bench.environ).seconds


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=850)
    parser.add_argument("--store", action="append", choices=STORES)
    given = parser.parse_args()
    commands.stop_on_signals()
    with Results(Path(__file__), "Out of a dedicated builder", ABOUT) as results, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        _, base = copied_stack(folder / "stack")
        far = stack.enter_context(temporary_engine("bm-far-", containerd_store=True))
        endpoint = stack.enter_context(loopback.grpc_of_engine(folder, far.address.removeprefix("unix://")))
        registry = stack.enter_context(loopback.bare_registry(folder / "registry")).address
        for store in given.store or STORES:
            with temporary_engine("bm-near-", containerd_store=store == "containerd") as near:
                near.load(base)
                place = folder / store
                ways = _ways(place, near, base, endpoint, registry, given.megabytes)
                stack.callback(commands.run, ["docker", "buildx", "rm", "--force", ways.builder], cleanup=True)
                measured(results, store, ways, given.repeat)


def _ways(folder: Path, near: TemporaryEngine, base: str, endpoint: str, registry: str, megabytes: int) -> Ways:
    """Write the project into ``folder``, and build it each way once."""
    project, builder = folder / "project", f"bm-{folder.name}-{os.getpid()}"
    project.mkdir(parents=True)
    (project / "compose.yml").write_text(COMPOSE)
    # What was built for the other store is in the builder's cache, and would not be fetched from there.
    large = f"RUN head -c {megabytes}000000 /dev/urandom > /large && : {folder.name}"
    (project / "Dockerfile").write_text(f"FROM {base}\n{large}\nCOPY small /\n")
    settings = {"BUILDER_DRIVER": "remote", "BUILDER_NAME": builder, "BUILDER_ENDPOINTS": endpoint}
    environ = {**near.environ, "COMPOSE_FILE": str(project / "compose.yml"), **settings}
    engine = Engine(near.address)
    local_image = engine.snapshot().get(base)
    if local_image is None:
        raise SystemExit(f"{base} is not in the engine")
    context = oci_transfer.context_of(engine, folder / "results", base, local_image, engine.snapshot().platform)
    ways = Ways(Bench(environ, folder / "bench"), project, builder, base, context, registry)
    ways.edit()
    for name, way in _cases(ways).items():
        say(f"{folder.name} store, the first time: {name} {way():.1f} s")
    return ways


def measured(results: Results, store: str, ways: Ways, repeat: int) -> None:
    """Measure all ways in turns, into an engine with this store."""
    for what, change, of_load, of_pull in GOALS:
        case = f"{what}, {store} store"

        def taking(way: Callable[[], float], change: bool = change) -> float:
            if change:
                ways.edit()
            return way()

        cases = {name: (lambda way=way: taking(way)) for name, way in _cases(ways).items()}
        ours, loaded, pulled = results.measured(case, cases, repeat).values()
        against = f"{ours:.2f} s against {loaded:.2f} s, {loaded / ours:.0f} times faster"
        results.add(f"{case}, against --load", ours / loaded, "×", of_load, against)
        note = f"{ours:.2f} s against {pulled:.2f} s"
        results.add(f"{case}, against push and pull through a registry", ours / pulled, "×", of_pull, note)


def _cases(ways: Ways) -> dict[str, Callable[[], float]]:
    return {
        "doit build_optimized": ways.ours,
        "docker buildx build --load": ways.loaded,
        "docker buildx build --push, docker pull": ways.pulled,
    }


if __name__ == "__main__":
    main()
