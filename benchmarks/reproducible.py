"""Do two machines make the same layers of the same sources?

    .venv/bin/python benchmarks/reproducible.py

Needs root and dockerd: each machine is an engine of its own, which begins with nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.newer_engine import newer_engine
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.engine.client import Engine

ABOUT = """
Each engine gets the base image and a checkout whose files have other times, and builds all images of the stack from
nothing: no image, no build cache, no download of another engine. Then the layers are compared, image by image, by the
digests of their bytes.
"""

OF_DEBIAN, OF_TESTING = "Debian's engine", "Debian testing's engine"
ENGINES: dict[str, Callable[[], AbstractContextManager[TemporaryEngine]]] = {
    OF_DEBIAN: partial(temporary_engine, "bm-again-"),
    f"{OF_DEBIAN}, containerd's store": partial(temporary_engine, "bm-again-", containerd_store=True),
    OF_TESTING: partial(newer_engine, "bm-again-"),
    f"{OF_TESTING}, containerd's store": partial(newer_engine, "bm-again-", containerd_store=True),
}


def main() -> None:
    """Build, compare, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    commands.stop_on_signals()
    with Results(Path(__file__), "The same layers everywhere", ABOUT) as results:
        made = {name: _layers(number, engine) for number, (name, engine) in enumerate(ENGINES.items())}
        first, *others = made
        for name in others:
            different = [
                f"{image} {number}"
                for image, layers in made[first].items()
                for number, pair in enumerate(zip(layers, made[name][image], strict=True), 1)
                if len(set(pair)) > 1
            ]
            total = sum(map(len, made[name].values()))
            note = f"of {total} layers of {len(made[name])} images{': ' if different else ''}{', '.join(different)}"
            results.add(f"{name}, against {first}: layers that differ", len(different), "layers", 0, note)


def _layers(number: int, engine: Callable[[], AbstractContextManager[TemporaryEngine]]) -> dict[str, tuple[str, ...]]:
    """The digests of each image's layers, built on an engine of its own, from files that are ``number`` days older."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        compose_file, base = copied_stack(folder / "stack")
        for path in (folder / "stack").rglob("*"):
            seconds = path.lstat().st_mtime - 86400 * number
            os.utime(path, (seconds, seconds), follow_symlinks=False)
        running = stack.enter_context(engine())
        running.load(base)
        bench = Bench({**running.environ, "COMPOSE_FILE": str(compose_file)}, folder / "bench")
        say(f"building on {running.address}")
        bench.doit("build_optimized")
        asked = Engine(running.address)
        images = {one["name"]: asked.snapshot().get(one["image"]) for one in bench.plan()}
        return {name: tuple(digest for digest, _ in asked.layers(image.id)) for name, image in images.items() if image}


if __name__ == "__main__":
    main()
