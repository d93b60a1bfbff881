"""Which tasks show what was built? What each does is imported when it acts: to build needs none of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.cli.action import FLAG, QUIET, Task, act


def task_history() -> Task:
    """Show what was built before: [IMAGE] [--show ID] [--limit N] [--json]"""
    return {
        "actions": [(_history,)],
        "params": [
            {"name": "number", "long": "show", "default": "", "help": "one build whole, by its id"},
            {"name": "limit", "long": "limit", "default": "", "help": "how many builds"},
            {"name": "as_json", "long": "json", **FLAG, "help": "as JSON"},
        ],
        "pos_arg": "words",
        **QUIET,
    }


def task_build_report() -> Task:
    """Write what the last builds did to .build: index.html, report.md, trace.json (Perfetto)"""
    return {"actions": [(_report,)], **QUIET}


def _history(words: Sequence[str], number: str, limit: str, as_json: bool) -> Any:
    from tasks.ui.history_view import show

    return act(show, words, number, limit, as_json)


def _report() -> Any:
    from tasks.ui.report import make

    return act(make)
