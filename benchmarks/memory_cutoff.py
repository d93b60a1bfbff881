"""Which memories have to do with a question? Tried on XQuAD, a published set, in twelve languages.

.venv/bin/python benchmarks/memory_cutoff.py FOLDER [--write]

FOLDER holds ``xquad.en.json`` and the others of github.com/google-deepmind/xquad (CC BY-SA 4.0). A sentence that holds
the answer to a question has to do with it; one of another article has not. ``--write`` makes the middles of the
languages anew, which ``memory`` counts from (``services/memory/languages.npy``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.memory_inside import CUTS
from benchmarks.memory_recall import inside
from doit_images.cli.process import current
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError

MIDDLES = Path(__file__).resolve().parent.parent / "services" / "memory" / "languages.npy"


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The figures for people."""
    names = ["plain 0.2", *(f"{cut:g}" for cut in CUTS)]
    lines = [
        "# Which memories have to do with a question",
        "",
        "Of XQuAD: how many of the sentences that answer a question are kept, and how many of other articles' ones "
        "pass too, in per cent. `plain 0.2`: those with a cosine similarity of 0.2 and more, whatever the language, as "
        "it was before. The others: that part of the way from where texts of the question's language lie that have "
        "nothing to do with it, to the question. Tried on every other article; the middles of the languages are those "
        "of the articles between.",
        "",
        f"| language | questions | {' | '.join(names)} |",
        f"|---|--:|{'--:|' * len(names)}",
        *(f"| {row['language']} | {row['questions']} | "
          f"{' | '.join(f'{row[name][0]} / {row[name][1]}' for name in names)} |" for row in rows),
        "",
        "`memory` takes 0.15 (`services/memory/embedding.py`).",
        "",
        measure.in_words(machine),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Try, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    commands.stop_on_signals()
    mounts = ["--mount", f"type=bind,source={arguments.folder.resolve()},target=/srv/xquad,readonly"]
    words = ["cutoff", "/srv/xquad"]
    if arguments.write:
        mounts += ["--user", "0:0", "--mount", f"type=bind,source={MIDDLES.parent},target=/srv/made"]
        words.append(f"/srv/made/{MIDDLES.name}")
    try:
        rows = inside(current().project.images["memory"].ref, mounts, *words)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    machine = measure.machine()
    measure.keep(Path(__file__), {"machine": machine, "rows": rows}, markdown(rows, machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
