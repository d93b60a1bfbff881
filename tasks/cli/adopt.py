"""How does another project get these tasks? The task that copies them."""

from __future__ import annotations

from tasks.cli.action import Task, flag, quiet


def task_adopt() -> Task:
    """Put these tasks into another project, or bring its copy to this version: FOLDER [--update] [--dry-run] [--yes]"""
    update = flag("update", "bring the copy that is there to this version")
    dry_run = flag("dry-run", "only say what would be done")
    yes = {**flag("yes", "do not ask before files are removed"), "short": "y"}
    return quiet("tasks.adopting.adopt:adopt", update, dry_run, yes, words="folders")
