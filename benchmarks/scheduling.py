"""What do builds that say what they need cost, on a machine that has no memory for all of them at once?

    .venv/bin/python benchmarks/scheduling.py

Needs root, dockerd, and control groups below /sys/fs/cgroup (tried with version 1).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.projects import DOIT, ROOT, environ
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.base.settings import load

ABOUT = """
60 images on an engine whose builds may have 1 GiB together (a control group: what goes beyond is killed): 24 that need
500 MB for 1.5 s, 27 that need 150 MB for a second, a chain of 8 such, and their base. Built with `-n 8`, once as they
are and once with `x-build-needs`; and with `-n 2`, the most that is safe without. What was killed is built again by
another run, as a person would do it, until nothing fails.
"""
LIMIT = 2**30
LARGE, SMALL = (500, 1.5), (150, 1.0)
MOST_RUNS = 20
SETTLE_SECONDS = 5.0


def write_project(folder: Path, *, base: str, needs: bool) -> Path:
    """Write the project of 60 images, and return its Compose file."""
    services: dict[str, Any] = {"base": {"image": "bm-room/base", "build": {"context": "base"}}}
    declared: dict[str, Any] = {}
    _write(folder / "base/Dockerfile", f"FROM {base}\nRUN echo {time.time_ns()} > /project\n")
    kinds = {f"l{number:02}": LARGE for number in range(24)} | {f"s{number:02}": SMALL for number in range(27)}
    parents = {f"c{number}": f"c{number - 1}" if number else "base" for number in range(8)}
    for name, (megabytes, seconds) in {**kinds, **dict.fromkeys(parents, SMALL)}.items():
        services[name] = {"image": f"bm-room/{name}", "build": {"context": name}}
        declared[name] = {"memory": f"{megabytes}m"}
        step = f"held = b'a' * ({megabytes - 30} << 20); import time; time.sleep({seconds})"
        line = f'FROM bm-room/{parents.get(name, "base")}\nRUN echo {name} && python3 -c "{step}"\n'
        _write(folder / name / "Dockerfile", line)
    content = {"name": "bm-room", "services": services, **({"x-build-needs": declared} if needs else {})}
    _write(folder / "compose.yml", json.dumps(content))
    return folder / "compose.yml"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@contextlib.contextmanager
def limited() -> Iterator[str]:
    """The name of a control group whose processes may have so much memory together."""
    name = f"bm-room-{os.getpid()}"
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    folder = root / name if unified else root / "memory" / name
    folder.mkdir()
    try:
        limits = {"memory.max": LIMIT, "memory.swap.max": 0} if unified else {"memory.limit_in_bytes": LIMIT}
        for file, value in limits.items():
            (folder / file).write_text(str(value))
        yield f"/{name}"
    finally:
        for path in (*sorted(folder.glob("**/"), reverse=True), folder):
            with contextlib.suppress(OSError):
                path.rmdir()


def until_built(engine: TemporaryEngine, compose_file: Path, workers: int) -> tuple[float, int]:
    """Build with so many workers until nothing fails; the seconds it took, and how many builds failed."""
    env = {**environ(engine.environ, compose_file), "BUILD_MEMORY": str(LIMIT)}
    seconds, failed = 0.0, 0
    for _ in range(MOST_RUNS):
        began = time.perf_counter()
        done = commands.run([*DOIT, "-c", "-n", str(workers), "build_optimized"], cwd=ROOT, env=env)
        seconds += time.perf_counter() - began
        if not done.status:
            return seconds, failed
        killed = [line for line in done.stderr.splitlines() if line.startswith("failed ")]
        if not killed:
            raise SystemExit(done.stderr)
        failed += len(killed)
    raise SystemExit(f"after {MOST_RUNS} runs images still fail")


def main() -> None:
    """Measure, print, keep."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    commands.stop_on_signals()
    base = load().base_image
    with Results(Path(__file__), "Builds that say what they need", ABOUT) as results, contextlib.ExitStack() as stack:
        engine = stack.enter_context(temporary_engine("bm-room-", cgroup=stack.enter_context(limited())))
        engine.load(base)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        measure.wait_until_quiet(say)
        took = {}
        for what, workers, needs in (("needs, -n 8", 8, True), ("-n 8", 8, False), ("-n 2", 2, False)):
            shutil.rmtree(folder)
            engine.forget_everything([base])
            time.sleep(SETTLE_SECONDS)
            took[what] = until_built(engine, write_project(folder, base=base, needs=needs), workers)
            say(f"{what}: {took[what][0]:.1f} s, {took[what][1]} failed")
        (mine, failed), (plain, killed), (safe, none) = took.values()
        note = f"{killed} with -n 8 alone, and {none} with -n 2"
        results.add("60 images, 1 GiB, -n 8 with x-build-needs: builds that failed", failed, "builds", 0, note)
        note = f"{mine:.1f} s against {safe:.1f} s; {plain:.1f} s with -n 8 alone, its repeated runs counted"
        results.add("the same: time against -n 2, the most that is safe without", mine / safe, "×", 1, note)


if __name__ == "__main__":
    main()
