"""The tests in the plan of a commit: which it makes due, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from doit_images.ci.history import expected_seconds
from doit_images.ci.testing.planned import State
from doit_images.ci.testing.since import Due
from doit_images.core.run import Run

_SAME = "all that it sees is as it was"


def print_table(run: Run, tests: Mapping[str, Due]) -> None:
    """Print them to standard output; nothing where there are none."""
    if not tests:
        return
    from rich.text import Text

    from doit_images.core.base.output import Output, table

    expected = _expected(run, tests)
    drawn = table("test", "action", "why", numbers=("seconds",))
    for name, due in tests.items():
        known = f"{expected[name]:.1f}" if name in expected else "?"
        why = "; ".join(due.reasons) or _SAME
        drawn.add_row(name, Text(_state(due)), Text(why), known if due.stale and not due.problem else "")
    console = Output()
    console.print()
    console.print(drawn)


def promised(run: Run, tests: Mapping[str, Due]) -> list[dict[str, Any]]:
    """They as plain data, in the form that is promised to scripts."""
    expected = _expected(run, tests)
    return [
        {
            "name": name,
            "service": due.test.service,
            "action": _state(due),
            "stale": due.stale,
            "reasons": list(due.reasons),
            "estimated_seconds": expected.get(name) if due.stale else 0.0,
        }
        for name, due in tests.items()
    ]


def _state(due: Due) -> State:
    return State.BROKEN if due.problem else State.TEST if due.stale else State.PASSED


def _expected(run: Run, tests: Mapping[str, Due]) -> dict[str, float]:
    known = expected_seconds(run.history, (due.ref for due in tests.values()))
    return {name: round(known[due.ref], 1) for name, due in tests.items() if due.ref in known}
