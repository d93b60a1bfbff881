"""How well, and how fast, does ``memory`` find something among a hundred thousand memories of one user?

.venv/bin/python benchmarks/memory_recall.py [--memories 100000] [--questions 200]

Asks the same questions of all memories, one by one, and of the index that such a user's are brought into, in a database
of its own from the images that are built. What the first finds is right; how much of it the second finds is its recall.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from doit_images.cli.process import current
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError

INSIDE = Path(__file__).with_name("memory_inside.py")
START_SECONDS = 120


@contextmanager
def database(image: str) -> Iterator[list[str]]:
    """A PostgreSQL of its own; what ``docker run`` needs to reach it."""
    name, password = f"memory-recall-{secrets.token_hex(4)}", secrets.token_hex(16)
    commands.run(["docker", "network", "create", name]).checked("docker network create fails")
    try:
        argv = ["docker", "run", "--detach", "--rm", "--name", name, "--network", name, "--network-alias", "postgres"]
        argv += ["--shm-size", "1g", "--memory", "3g", "--env", f"POSTGRES_PASSWORD={password}", image]
        commands.run(argv).checked("docker run fails")
        until = time.monotonic() + START_SECONDS
        while commands.answer(["docker", "inspect", "--format", "{{.State.Health.Status}}", name]) != "healthy":
            if time.monotonic() > until:
                raise UserError("PostgreSQL does not become healthy", remedy=f"docker logs {name}")
            time.sleep(0.2)
        yield ["--network", name, "--env", f"POSTGRES_PASSWORD={password}", "--env", "REDIS_PASSWORD=none"]
    finally:
        commands.run(["docker", "rm", "--force", "--volumes", name])
        commands.run(["docker", "network", "rm", name])


def inside(image: str, options: list[str], *words: str) -> Any:
    """What ``memory_inside.py`` tells, run in the image of ``memory``."""
    mount = f"type=bind,source={INSIDE},target=/srv/memory_inside.py,readonly"
    argv = ["docker", "run", "--rm", "--env", "PYTHONPATH=/app", *options, "--mount", mount, image]
    done = commands.run([*argv, "python", "/srv/memory_inside.py", *words], stderr=sys.stderr)  # how far it is
    return json.loads(done.checked("it cannot be measured").stdout)


def markdown(found: dict[str, Any], machine: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"# Search among {found['memories']:,} memories of one user",
        "",
        f"The nearest five of {found['questions']} questions. The index finds {found['recall_at_5']:.1%} of what all "
        f"memories together give. It was made in {found['making_seconds']:.0f} s; of new memories it takes "
        f"{found['brought_in_a_second']} a second, in the background.",
        "",
        "| asked of | p50 ms | p90 ms | p99 ms |",
        "|---|--:|--:|--:|",
        *(f"| {name} | {found[key]['p50']} | {found[key]['p90']} | {found[key]['p99']} |"
          for name, key in (("all memories", "exact"), ("the index", "index"))),
        "",
        measure.in_words(machine),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=200)
    arguments = parser.parse_args()
    commands.stop_on_signals()
    images = current().project.images
    machine = measure.machine()
    try:
        with database(images["postgres"].ref) as options:
            found = inside(
                images["memory"].ref, options, "recall", str(arguments.memories), str(arguments.questions)
            )  # fmt: skip
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    measure.keep(Path(__file__), {"machine": machine, **found}, markdown(found, machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
