"""The tests in a plan, of what is here or of a commit: which would be run, and which passed before on just that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from doit_images.ci.history import expected_seconds
from doit_images.ci.testing.planned import Planned, PlannedState
from doit_images.core.base.formatting import seconds_text
from doit_images.core.history.store import History

if TYPE_CHECKING:
    from doit_images.ci.testing.since import Due

_COLOURS = {PlannedState.TEST: "yellow", PlannedState.PASSED: "green", PlannedState.BROKEN: "red"}
_SAME = "all that it sees is as it was"


def print_table(history: History, tests: Mapping[str, Planned | Due]) -> None:
    """Print them below the table of images; nothing where there are none."""
    if not tests:
        return
    from rich.text import Text

    from doit_images.core.base.output import Output, table

    expected = _expected(history, tests)
    drawn = table("test", "action", "why", numbers=("seconds",))
    for name, one in tests.items():
        seconds = expected.get(name)
        known = "" if one.state != PlannedState.TEST else "?" if seconds is None else f"{seconds:.1f}"
        drawn.add_row(name, Text(one.state, _COLOURS[one.state]), Text(_why(one)), known)
    console = Output()
    console.print()
    console.print(drawn)
    if passed := [one.result for one in tests.values() if one.result]:
        saved = seconds_text(sum(result.seconds for result in passed))
        console.print(f"\n{len(passed)} of {len(tests)} tests passed before, which saves {saved}")


def promised(history: History, tests: Mapping[str, Planned | Due]) -> list[dict[str, Any]]:
    """They as plain data, in the form that is promised to scripts."""
    expected = _expected(history, tests)
    return [
        {
            "name": name,
            "service": one.test.service,
            "action": one.state,
            "stale": one.state != PlannedState.PASSED,
            "reasons": [one.problem] if one.problem else list(one.reasons),
            "fingerprint": one.fingerprint,
            "estimated_seconds": expected.get(name) if one.state == PlannedState.TEST else 0.0,
            "saved_seconds": round(one.result.seconds, 1) if one.result else 0.0,
        }
        for name, one in tests.items()
    ]


def _why(one: Planned | Due) -> str:
    if one.result:
        return f"it passed on just this, in {seconds_text(one.result.seconds)}"
    return one.problem or "; ".join(one.reasons) or _SAME


def _expected(history: History, tests: Mapping[str, Planned | Due]) -> dict[str, float]:
    refs = {name: one.ref for name, one in tests.items()}
    known = expected_seconds(history, refs.values())
    return {name: round(known[ref], 1) for name, ref in refs.items() if ref in known}
