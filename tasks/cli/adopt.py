"""How does another project get these tasks? The task that copies them."""

from __future__ import annotations

from tasks.cli.action import FLAG, QUIET, Task, act


def task_adopt() -> Task:
    """Put these tasks into another project, or bring its copy to this version: FOLDER [--update] [--dry-run] [--yes]"""
    return {
        "actions": [(act, ["tasks.adopting.adopt:adopt"])],
        "params": [
            {"name": "update", "long": "update", **FLAG, "help": "bring the copy that is there to this version"},
            {"name": "dry_run", "long": "dry-run", **FLAG, "help": "only say what would be done"},
            {"name": "yes", "long": "yes", "short": "y", **FLAG, "help": "do not ask before files are removed"},
        ],
        "pos_arg": "folders",
        **QUIET,
    }
