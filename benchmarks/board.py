"""What does the live board cost? Measured on real builds, with and without it, turn about.

    python benchmarks/board.py [--repeat 5] [--images 4] [--base python:3.13-slim-trixie] [--json]

Each run builds the same talkative images side by side, without cache, in a process of its own on a terminal of its
own. ``none`` reads BuildKit's progress and throws it away; ``board`` parses it and draws. The board's cost is the
processor time that its process takes more than the other, as a share of the build's wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import resource
import sys
import threading
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DOCKERFILE = """\
FROM {base} AS builder
RUN i=0; while [ $i -lt 1500 ]; do echo "line $i of something that talks a lot while it is built"; i=$((i + 1)); done
RUN i=0; while [ $i -lt 30 ]; do echo "downloading $i"; sleep 0.1; i=$((i + 1)); done
FROM {base}
COPY --from=builder /etc/hostname /made
RUN sleep 1
"""


def build_all(images: int, context: Path, *, shown: bool) -> dict[str, float]:
    """Build side by side and return the seconds of wall time and of this process's own processor time."""
    from doit_images.core.base import commands
    from doit_images.core.building.events import ImageState
    from doit_images.core.buildkit.progress import Progress
    from doit_images.core.planning.plan import Action
    from doit_images.ui.board import Board

    board = Board()

    def build(name: str) -> None:
        argv = [
            "docker",
            "buildx",
            "build",
            "--progress=rawjson",
            "--no-cache",
            "--output=type=cacheonly",
            str(context),
        ]
        if shown:
            board.started(name, Action.BUILD, ["measured"], 6.0)
        progress = Progress()
        with commands.start(argv, cwd=context) as process:
            for data in process.output():
                if shown:
                    board.fed(name, progress, progress.feed(data))
        if process.returncode:
            raise SystemExit(f"the build failed: {progress.tail}")
        if shown:
            board.ended(name, ImageState.BUILT, progress=progress)

    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    threads = [threading.Thread(target=build, args=(f"image-{number}",)) for number in range(images)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    board.pause()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.monotonic() - began, "cpu": spent}


def in_a_terminal(mode: str, images: int, context: Path, result: Path) -> dict[str, float]:
    """Run one measurement in a process of its own whose standard error is a terminal."""
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")} | {"TERM": "xterm"}
    argv = [sys.executable, __file__, "--one", mode, "--images", str(images), "--context", str(context)]
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [*argv, "--result", str(result)], env)
    while True:
        try:
            if not os.read(terminal, 65536):
                break
        except OSError:
            break
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise SystemExit(f"the measurement of {mode!r} failed; run it by hand: {' '.join(argv)}")
    found: dict[str, float] = json.loads(result.read_text())
    return found


def measure(repeat: int, images: int, base: str) -> dict[str, object]:
    """Both ways, turn about, and what they say about the board."""
    runs: dict[str, list[dict[str, float]]] = {"none": [], "board": []}
    with TemporaryDirectory(prefix="board-") as folder:
        (Path(folder) / "Dockerfile").write_text(DOCKERFILE.format(base=base))
        for number in range(repeat):
            for mode in ("none", "board") if number % 2 else ("board", "none"):
                runs[mode].append(in_a_terminal(mode, images, Path(folder), Path(folder) / "result.json"))
                print(f"{number + 1}/{repeat} {mode}: {runs[mode][-1]}", file=sys.stderr)
    walls, cpus = ({mode: median(run[key] for run in found) for mode, found in runs.items()} for key in ("wall", "cpu"))
    share = (cpus["board"] - cpus["none"]) / walls["board"]
    return {"images": images, "repeat": repeat, "wall": walls, "cpu": cpus, "share": share, "runs": runs}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--base", default="", help="what is built on; default: the project's own base")
    parser.add_argument("--json", action="store_true")
    for hidden in ("--one", "--context", "--result"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        found = build_all(asked.images, Path(asked.context), shown=asked.one == "board")
        Path(asked.result).write_text(json.dumps(found))
        return
    from doit_images.core.base import settings
    from tasks.bases import base

    result = measure(asked.repeat, asked.images, asked.base or base.name_here(settings.load()))
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    print(f"wall: {result['wall']}\ncpu:  {result['cpu']}\nthe board costs {result['share']:.2%} of a build's time")


if __name__ == "__main__":
    main()
