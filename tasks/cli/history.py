"""Which tasks show what was built? What each does is imported when it acts: to build needs none of it."""

from __future__ import annotations

from tasks.cli.action import JSON, QUIET, Task, act


def task_history() -> Task:
    """Show what was built before: [IMAGE] [--show ID] [--limit N] [--json]"""
    return {
        "actions": [(act, ["tasks.ui.history_view:show"])],
        "params": [
            {"name": "number", "long": "show", "default": "", "help": "one build whole, by its id"},
            {"name": "limit", "long": "limit", "default": "", "help": "how many builds"},
            JSON,
        ],
        "pos_arg": "words",
        **QUIET,
    }


def task_build_report() -> Task:
    """Write what the last builds did to .build: index.html, report.md, trace.json (Perfetto)"""
    return {"actions": [(act, ["tasks.ui.report:make"])], **QUIET}
