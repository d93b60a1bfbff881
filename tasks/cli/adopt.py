"""How does another project get these tasks? The task that copies them."""

from __future__ import annotations

from tasks.cli.action import YES, Task, option, quiet


def task_adopt() -> Task:
    """Put these tasks into another project, or bring its copy to this version: FOLDER [--update] [--dry-run] [--yes]"""
    update = option("update", False, "bring the copy that is there to this version")
    dry_run = option("dry-run", False, "only say what would be done")
    yes = {**YES, "help": "do not ask before files are removed"}
    return quiet("tasks.adopting.adopt:adopt", update, dry_run, yes, words="folders")
