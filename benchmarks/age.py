"""Which figures are older than the code that they measure?

A figure names the commit that it was measured at. It is old when a later commit changed the benchmark's script, or one
of the paths below that the benchmark looks at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.base import commands

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OLDER = " (older than the code)"

_BUILDS = ("dodo.py", "doit_images/core", "doit_images/cli/build.py")
_IMAGES = ("docker", "services", "docker-compose.optimized.yml", "docker-compose.yml", "docker-compose.documented.yml")


class Figure(NamedTuple):
    """A file of figures: what it measures (paths), and how it is measured again: the words behind our Python, those
    that measure it with ``also`` another engine, and whether what that prints is the file. ``needs`` is what the script
    is given that is not here: then somebody has to start it by hand."""

    paths: tuple[str, ...]
    words: tuple[str, ...]
    printed: bool = False
    also: tuple[str, ...] = ()
    needs: str = ""


def _script(name: str, *paths: str, words: tuple[str, ...] = (), also: tuple[str, ...] = (), needs: str = "") -> Figure:
    return Figure((f"benchmarks/{name}.py", *paths), (f"benchmarks/{name}.py", *words), also=also, needs=needs)


_NEWEST = ("--engine", "testing")
_COMPARED = ("benchmarks/scenarios.py", "benchmarks/side_by_side.py", "benchmarks/replay.py", *_BUILDS, *_IMAGES)
_COMPARE = ("-m", "doit", "compare_performance", "--json", "--repeat", "5")

FIGURES = {
    "advised": _script("advised", "doit_images/advise", *_IMAGES),
    "advised_public": _script("advised_public", "doit_images/advise", needs="clones of public repositories"),
    "attack": _script("attack", "services", "docker"),
    "compare_performance": Figure(_COMPARED, _COMPARE, printed=True),
    "compare_performance_testing": Figure(_COMPARED, (*_COMPARE, *_NEWEST), printed=True),
    "branch_switch": _script("branch_switch", *_BUILDS),
    "carried_mounts": _script("carried_mounts", "doit_images/share/cache_mounts.py", *_IMAGES),
    "ci_commit": _script(
        "ci_commit", *_BUILDS, "doit_images/ci/testing", "doit_images/ci/results", "doit_images/stack"
    ),
    "ci_minutes": _script("ci_minutes", *_BUILDS, "doit_images/ci", needs="clones of public repositories"),
    "cold": _script("cold", *_BUILDS, *_IMAGES, also=_NEWEST),
    "dedicated": _script("dedicated", *_BUILDS),
    "fleet": _script("fleet", *_BUILDS, "doit_images/share", words=("--images", "300", "--minutes", "6")),
    "heavy_packages": _script(
        "heavy_packages", "doit_images/advise/heavy_packages.py", "doit_images/advise/installed.py"
    ),
    "leavers": _script("leavers", "services", "docker"),
    "load": _script("load", "services", "docker"),
    "many_images": _script("many_images", "doit_images/share"),
    "memory_cutoff": _script("memory_cutoff", "benchmarks/memory_inside.py", "services/memory", needs="XQuAD"),
    "memory_recall": _script("memory_recall", "benchmarks/memory_inside.py", "services/memory", "docker/postgres"),
    "nothing_changed": _script("nothing_changed", *_BUILDS, also=_NEWEST),
    "one_change": _script("one_change", *_BUILDS, "docker/base-python", "docker/auth", also=_NEWEST),
    "replay_history": _script(
        "replay_history", "benchmarks/judge.py", *_BUILDS, "doit_images/ci", needs="clones of public repositories"
    ),
    "reproducible": _script("reproducible", *_IMAGES),
    "scheduling": _script("scheduling", *_BUILDS),
    "shared": _script("shared", *_BUILDS, *_IMAGES, "doit_images/share"),
    "watch": _script("watch", "doit_images/stack/dev.py", "doit_images/stack/watch.py", *_BUILDS, also=_NEWEST),
    "worktrees": _script("worktrees", *_BUILDS, *_IMAGES, "doit_images/stack"),
}


def older_runs(name: str, runs: Iterable[str]) -> set[str]:
    """Those among a benchmark's runs (each as ``date, commit``, and what else is said of it) after whose commit the
    code that it measures changed; also those whose commit is not of this history, or is not said. Without git nothing
    is known to be older."""
    figure = FIGURES.get(name)
    if figure is None or not commands.answer(["git", "-C", str(ROOT), "rev-parse", "HEAD"]):
        return set()
    return {run for run in runs if not _is_of_today(_commit(run), figure.paths)}


def _commit(run: str) -> str:
    return f"{run}, ".split(", ")[1].rstrip("+")


def _is_of_today(commit: str, paths: Iterable[str]) -> bool:
    argv = ["git", "-C", str(ROOT), "rev-list", "--count", f"{commit}..HEAD", "--", *paths]
    return bool(re.fullmatch("[0-9a-f]{7,40}", commit)) and commands.answer(argv) == "0"


def _is_lost(commit: str) -> bool:
    return commands.run(["git", "-C", str(ROOT), "merge-base", "--is-ancestor", commit or "-", "HEAD"]).status != 0


def runs_of(content: Mapping[str, Any]) -> list[str]:
    """The runs whose figures a file holds, as its rows (``run``) and the machines that it names say, wherever these
    stand."""
    found: dict[str, None] = {}
    for key, value in content.items():
        if key == "run":
            found[value] = None
        elif key == "machine":
            found[f"{value.get('date', '')}, {value.get('commit', '')}"] = None
        elif key == "runs" and isinstance(value, dict):  # in the row of a comparison it is a number
            found |= dict.fromkeys(value)
        else:
            inner = value if isinstance(value, list) else [value]
            found |= dict.fromkeys(run for each in inner if isinstance(each, dict) for run in runs_of(each))
    return [*found]


def stale(folder: Path = HERE) -> Iterator[tuple[str, str]]:
    """The figures that have to be measured again, each with why."""
    for name in FIGURES:
        path = folder / f"{name}.json"
        if not path.exists():
            yield name, "was never measured"
            continue
        runs = runs_of(json.loads(path.read_text()))
        older = older_runs(name, runs)
        if older:
            changed = commands.answer(
                ["git", "-C", str(ROOT), "log", "-1", "--format=%h %s", "--", *FIGURES[name].paths]
            )
            told = (f"{run} (no commit of this history)" if _is_lost(_commit(run)) else run for run in sorted(older))
            yield name, f"of {'; '.join(told)}; what it measures last changed in {changed}"
