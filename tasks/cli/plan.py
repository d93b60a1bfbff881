"""What would be done about each image, and why? The task that shows it."""

from __future__ import annotations

from tasks.cli.action import FLAG, JSON, QUIET, Task, act


def task_plan() -> Task:
    """Show what would be built, and why: [IMAGE …] [--json] [--inputs] [--bake]"""
    return {
        "actions": [(act, ["tasks.ui.plan_view:show"])],
        "params": [
            JSON,
            {"name": "inputs", "long": "inputs", **FLAG, "help": "only the inputs, one a line"},
            {"name": "as_bake", "long": "bake", **FLAG, "help": "a definition for buildx bake"},
        ],
        "pos_arg": "images",
        **QUIET,
    }
