"""The tests in a plan: which would be run, and which passed before on just what they would see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from doit_images.ci.history import expected_seconds
from doit_images.ci.testing.planned import Planned, State
from doit_images.core.base.formatting import seconds_text

if TYPE_CHECKING:
    from doit_images.core.run import Run

_COLOURS = {State.TEST: "yellow", State.PASSED: "green", State.BROKEN: "red"}


def print_table(run: Run, tests: Mapping[str, Planned]) -> None:
    """Print them below the table of images; nothing where there are none."""
    if not tests:
        return
    from rich.text import Text

    from doit_images.core.base.output import Output, table

    expected = _expected(run, tests)
    drawn = table("test", "action", "why", numbers=("seconds",))
    for name, planned in tests.items():
        seconds = expected.get(name)
        known = "" if planned.state != State.TEST else "?" if seconds is None else f"{seconds:.1f}"
        drawn.add_row(name, Text(planned.state, _COLOURS[planned.state]), Text(_why(planned)), known)
    console = Output()
    console.print()
    console.print(drawn)
    if passed := [planned.result for planned in tests.values() if planned.result]:
        saved = seconds_text(sum(result.seconds for result in passed))
        console.print(f"\n{len(passed)} of {len(tests)} tests passed before, which saves {saved}")


def promised(run: Run, tests: Mapping[str, Planned]) -> list[dict[str, Any]]:
    """They as plain data, in the form that is promised to scripts."""
    expected = _expected(run, tests)
    return [
        {
            "name": name,
            "service": planned.test.service,
            "action": planned.state,
            "stale": planned.state != State.PASSED,
            "reasons": [_why(planned)] if planned.problem else list(planned.reasons),
            "fingerprint": planned.fingerprint,
            "estimated_seconds": expected.get(name) if planned.state == State.TEST else 0.0,
            "saved_seconds": round(planned.result.seconds, 1) if planned.result else 0.0,
        }
        for name, planned in tests.items()
    ]


def _why(planned: Planned) -> str:
    if planned.result:
        return f"it passed on just this, in {seconds_text(planned.result.seconds)}"
    return planned.problem or "; ".join(planned.reasons)


def _expected(run: Run, tests: Mapping[str, Planned]) -> dict[str, float]:
    refs = {name: planned.ref for name, planned in tests.items()}
    known = expected_seconds(run.history, refs.values())
    return {name: round(known[ref], 1) for name, ref in refs.items() if ref in known}
