"""How many changes to the code that decides do the tests notice that need no engine?

    doit test_mutants [--sample 600] [doit_images.core.planning.plan …]

``mutmut`` changes one place after the other, in a copy of this repository, and runs the tests that come by the changed
function; ``[tool.mutmut]`` in pyproject.toml names the modules and the tests. ``docs/mutants.md`` tells of those that
survive why they may.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
JUDGED = (
    "doit_images.core.inputs.fingerprint",
    "doit_images.core.planning.forecast",
    "doit_images.core.planning.plan",
    "doit_images.core.planning.reasons",
    "doit_images.core.planning.record",
    "doit_images.pruning.prune",
    "doit_images.share.lease",
    "doit_images.share.share",
)
"""The modules that are tried where none is named: what they decide, no engine has to judge."""
AT_LEAST = 0.9
"""The part of them that has to be noticed."""
_SURVIVED = (0, 33)  # mutmut's codes: all tests passed, and none came by


class Score(NamedTuple):
    """Of one module: how many mutants were tried, and the names of those that no test noticed."""

    module: str
    tried: int
    survivors: tuple[str, ...]


def try_mutants(modules: Sequence[str], sample: int) -> list[Score]:
    """Try the mutants of these modules (of those that are judged), or ``sample`` of them, the same each time; their
    scores. ``UserError`` where mutmut cannot begin, as when a test fails without any mutant."""
    folder = ROOT / OWN_FOLDER / "mutants"
    _copy(folder)
    wanted = [f"{module}.*" for module in modules or JUDGED]
    if sample:
        commands.run(_run("none"), cwd=folder)  # makes all mutants, notes which tests come by them, and ends there
        known = [name for _, codes in _noted(folder) for name in codes]
        known = [name for name in known if name.startswith(tuple(f"{one}." for one in modules or JUDGED))]
        wanted = random.Random(sample).sample(known, min(sample, len(known)))
    commands.show(_run(*wanted), cwd=folder)
    scores = [score for module, codes in _noted(folder) if (score := score_of(module, codes)).tried]
    if not scores:
        raise UserError("mutmut tried nothing", remedy=f"its last words stand above; {folder} is where it worked")
    return scores


def score_of(module: str, codes: dict[str, int | None]) -> Score:
    """The score of a module from mutmut's exit codes, by the name of each mutant; None for one that was not tried."""
    tried = {name: code for name, code in codes.items() if code is not None}
    return Score(module, len(tried), tuple(name for name, code in tried.items() if code in _SURVIVED))


def noticed(scores: Iterable[Score]) -> float:
    """The part of all mutants that the tests noticed."""
    scores = list(scores)
    return 1 - sum(len(score.survivors) for score in scores) / sum(score.tried for score in scores)


def report(scores: Sequence[Score]) -> Iterator[str]:
    """What is told: a line for each module, and what each survivor changes."""
    for score in scores:
        good = score.tried - len(score.survivors)
        yield f"{score.module:32} {good:5} of {score.tried:5} noticed, {good / score.tried:.0%}"
    yield f"{noticed(scores):.1%} of {sum(score.tried for score in scores)} mutants were noticed"
    for name in (name for score in scores for name in score.survivors):
        shown = commands.run([_program(), "show", name], cwd=ROOT / OWN_FOLDER / "mutants").stdout.splitlines()
        yield "\n".join([name, *(line for line in shown if re.match(r"[-+](?![-+])", line))])


def _copy(folder: Path) -> None:
    """All files of this repository that git knows, as they are; what mutmut noted of an earlier copy goes."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = commands.run(["git", "ls-files", "-z"], cwd=ROOT).checked("git cannot list the files").stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def _run(*names: str) -> list[str]:
    return [_program(), "run", f"--max-children={os.cpu_count() or 1}", *names]


def _program() -> str:
    return str(Path(sys.executable).with_name("mutmut"))


def _noted(folder: Path) -> Iterator[tuple[str, dict[str, int | None]]]:
    """Each module, and how its mutants ended."""
    top = folder / "mutants"
    for path in sorted(top.rglob("*.meta")):
        module = ".".join(path.relative_to(top).with_suffix("").with_suffix("").parts)
        yield module, json.loads(path.read_text())["exit_code_by_key"]
