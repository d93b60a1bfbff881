"""Does it pay to carry what cache mounts hold to a machine that is new each time, as a CI's is?

    .venv/bin/python benchmarks/carried_mounts.py [--repeat 3]

Needs root, dockerd and Debian's docker-registry: the new machine is an engine of its own, emptied before each run.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import edits
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from tests import loopback

ABOUT = """
A first machine built this stack, shared it through a registry on loopback, and wrote its cache mounts (the downloads of
pip, uv and apt) to a folder with `cache_export --mounts`. Then the lock of one service changed, by a line that installs
nothing new. The second machine's engine holds the base image and nothing else: `carried` is `cache_import --mounts` of
that folder and the build, `downloaded` the build alone. Once it builds all images, and once it pulls from the registry
all but that service's. In turns. Not in it: what it costs a CI to keep the folder and to bring it, whose size is told;
nor is this machine's way to the package index and Debian's mirror yours.
"""


@dataclass(frozen=True)
class NewMachine:
    """A machine that has nothing but the base image: its engine, the project on it, and the folder of the mounts."""

    engine: TemporaryEngine
    bench: Bench
    base: str
    mounts: Path

    def downloading(self, images: int) -> float:
        """The seconds of a build that downloads all that it installs, and has to make so many images."""
        self._empty()
        return self._built(images)

    def carrying(self, images: int) -> float:
        """The seconds of filling the cache mounts first, and of that build."""
        self._empty()
        return self.bench.doit("cache_import", "--mounts", str(self.mounts)).seconds + self._built(images)

    def _empty(self) -> None:
        self.engine.forget_everything([self.base])
        shutil.rmtree(self.bench.compose_file().parent / OWN_FOLDER, ignore_errors=True)

    def _built(self, images: int) -> float:
        ran = self.bench.doit("build_optimized")
        built = sum(line.startswith("built ") for line in ran.stderr.splitlines())
        if built != images:
            raise UserError(f"{built} images were built where {images} had to be:\n{ran.stderr}")
        return ran.seconds


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    commands.stop_on_signals()
    with Results(Path(__file__), "Carried cache mounts", ABOUT) as results, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        registry = stack.enter_context(loopback.bare_registry(folder / "registry")).address
        compose_file, base = copied_stack(folder / "stack")
        project = {"COMPOSE_FILE": str(compose_file)}
        shared = {"CACHE_REGISTRY": registry, "CACHE_BACKEND": "none"}
        mounts = folder / "mounts"
        service, images = _first_machine({**project, **shared}, base, mounts, folder)
        engine = stack.enter_context(temporary_engine("bm-new-"))
        engine.load(base)
        alone = NewMachine(engine, Bench({**engine.environ, **project}, folder), base, mounts)
        # It must not share what it builds: the next round would pull that.
        reading = {**engine.environ, **project, **shared, "CACHE_WRITE": "0"}
        pulling = NewMachine(engine, Bench(reading, folder), base, mounts)
        cases = {"all images built": (alone, images), f"{service} built, the others pulled": (pulling, 1)}
        size = sum(path.stat().st_size for path in mounts.iterdir()) / 1e6
        for case, (machine, count) in cases.items():
            ways = {"carried": partial(machine.carrying, count), "downloaded": partial(machine.downloading, count)}
            carried, downloaded = results.measured(case, ways, repeat).values()
            note = f"{carried:.1f} s against {downloaded:.1f} s, with {size:.0f} MB carried"
            results.add(f"{case}: with carried mounts, against without", carried / downloaded, "×", 1, note)


def _first_machine(environ: dict[str, str], base: str, mounts: Path, folder: Path) -> tuple[str, int]:
    """Build and share everything, write the mounts, and change the lock of one service: which, of how many images."""
    with temporary_engine("bm-first-") as engine:
        engine.load(base)
        bench = Bench({**engine.environ, **environ}, folder)
        say("first machine: building and sharing")
        bench.doit("build_optimized")
        bench.doit("cache_export", "--mounts", str(mounts))
        plan = bench.plan()
    inputs = {image["name"]: image["inputs"] for image in plan}
    parents = {parent for image in plan for parent in image["parents"]}
    service = edits.services([name for name in inputs if name not in parents], inputs)[0]
    edit = edits.requirements_of(service, inputs)
    if edit is None:
        raise UserError(f"{service} has no list of packages of its own")
    edit.apply(bench.compose_file().parent, "a line that installs nothing new")
    return service, len(inputs)


if __name__ == "__main__":
    main()
