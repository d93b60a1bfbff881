"""Is this machine able to build? The task that says it."""

from __future__ import annotations

from tasks.cli.action import QUIET, Task, act


def task_doctor() -> Task:
    """Say whether this machine can build, and what would make it better"""
    return {"actions": [(act, ["tasks.ui.doctor:examine"])], **QUIET}
