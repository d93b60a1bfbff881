"""``doit plan --at REV``: what would be built for a commit, read from git alone; also as a matrix of CI jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.base.errors import UserError
from tasks.planning.action import Action
from tasks.planning.plan import Decision
from tasks.planning.since import Asked, plan_since
from tasks.run import Run
from tasks.ui.plan_view import Plan, chosen, complain, print_json, print_table, promised

_SHORT = 12  # hexadecimal digits of a commit


def show(run: Run, images: Sequence[str], *, as_json: bool, matrix: bool, since: tuple[str, str]) -> None:
    """Print what would be built at the first of these two revisions where all was built at the second, to standard
    output; what no commit says, to standard error. ``UserError`` as for any plan."""
    asked = Asked(run.files, run.environ, *since, run.settings.cache_main_branch, run.common)
    found = plan_since(asked)
    decisions = chosen(found.decisions, map(found.project.image, images))
    plan = Plan(found.project.name, decisions, _expected(run, decisions), run.settings.build_jobs)
    if matrix:
        print(json.dumps(matrix_of(plan)))
    elif as_json:
        print_json({"at": found.at, "since": found.before or None, **promised(plan), "unknown": list(found.unknown)})
    else:
        print_table(plan)
        before = f"since {found.before[:_SHORT]}" if found.before else "from nothing"
        print(f"{found.at[:_SHORT]} {before}")
    for sentence in found.unknown:
        print(f"plan: {sentence}", file=sys.stderr)
    complain(decisions)


def matrix_of(plan: Plan) -> dict[str, Any]:
    """A matrix of GitHub's, with a job for each image that is to be built and that no other such image builds on, for
    to build an image builds what it needs; ``builds`` are all that come with it."""
    stale = {name: decision for name, decision in plan.decisions.items() if decision.stale}
    below = {name: [each for each in _needs(name, plan.decisions) if each in stale] for name in stale}
    inner = {each for some in below.values() for each in some}
    return {
        "include": [
            {
                "image": name,
                "ref": decision.inputs.image.ref,
                "builds": [*reversed(below[name]), name],
                "why": "; ".join(decision.reasons),
                "seconds": _seconds([*below[name], name], plan),
            }
            for name, decision in stale.items()
            if name not in inner and decision.action != Action.BROKEN
        ]
    }


def _needs(name: str, decisions: Mapping[str, Decision]) -> list[str]:
    """All that an image needs, nearest first."""
    found: dict[str, None] = {}
    todo = [name]
    while todo:
        for need in decisions[todo.pop(0)].inputs.needs:
            found.pop(need, None)
            found[need] = None
            todo.append(need)
    return list(found)


def _seconds(names: Sequence[str], plan: Plan) -> float | None:
    """How long these take one after the other, None if that is not known of all."""
    known = [plan.expected[name] for name in names if name in plan.expected]
    return round(sum(known), 1) if len(known) == len(names) else None


def _expected(run: Run, decisions: Mapping[str, Decision]) -> dict[str, float]:
    """How long each image took to build before, as far as history knows."""
    refs = {name: decision.inputs.image.ref for name, decision in decisions.items()}
    try:
        known = run.history.expected_seconds(refs.values())
    except UserError:  # a damaged history forecasts nothing
        known = {}
    return {name: known[ref] for name, ref in refs.items() if ref in known}
