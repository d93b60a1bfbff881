"""What does it cost to come back to a branch that was built before?

.venv/bin/python benchmarks/branch_switch.py [--repeat 9]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import stack_copy
from benchmarks.results import Results, seconds

ABOUT = """
Two branches of a copy of the stack are built once: one differs by a line of code that three services share. Then each
command runs right after a switch from one to the other. `doit` must not build anything: it only moves names.
"""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    repeat = parser.parse_args().repeat
    with Results(Path(__file__), "Back to a branch that was built before", ABOUT) as results, stack_copy() as bench:
        shared = bench.compose_file().parent / "services/common/logs.py"
        branches = itertools.cycle([shared.read_text() + "\n# the other branch\n", shared.read_text()])
        bench.prepare()
        for _ in range(2):
            shared.write_text(next(branches))
            bench.doit("build_optimized")
            bench.build_with_peers()
        retagged: set[int] = set()

        def ours() -> float:
            shared.write_text(next(branches))
            ran = bench.doit("build_optimized")
            words = [line.split()[0] for line in ran.stderr.splitlines() if line.strip()]
            if "built" in words:
                raise SystemExit(f"something was built:\n{ran.stderr}")
            retagged.add(words.count("retagged"))
            return ran.seconds

        def bake() -> float:
            shared.write_text(next(branches))
            return bench.bake_seconds()

        def compose() -> float:
            shared.write_text(next(branches))
            return bench.compose().seconds

        # an odd number of commands a round: each meets both branches in turn
        cases = {"doit build_optimized": ours, "docker compose build": compose, "docker buildx bake": bake}
        mine, composed, baked = results.measured("after a switch of branches", cases, repeat).values()
        note = f"{max(retagged)} images renamed, none built; Compose {composed:.2f} s, bake {seconds(baked)}"
        results.add("after a switch of branches", mine, "s", 0.5, note)


if __name__ == "__main__":
    main()
