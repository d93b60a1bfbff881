"""Which tasks run the stack? What each does is imported when it acts: to list them, or to build, needs none of it."""

from __future__ import annotations

from typing import Any

from tasks.cli.action import FLAG, JSON, PLAIN, QUIET, YES, Task, act


def task__env_file() -> Task:
    """Make .env from .env.example with strong random secrets, where there is none"""
    return {"actions": [(act, ["tasks.stack.stack:make_env"])], **QUIET}


def task_up_optimized() -> Task:
    """Build what is stale, start what changed, and wait until every service is healthy"""
    return {"actions": [(_shown, ["tasks.stack.stack:up"])], "task_dep": ["_env_file", "build_optimized"], **PLAIN}


def task_down_optimized() -> Task:
    """Remove the stack's containers and keep its data; [--volumes] [--yes] also removes the data"""
    volumes = {"name": "volumes", "long": "volumes", **FLAG, "help": "remove the data too, for ever"}
    return {"actions": [(act, ["tasks.stack.stack:down"])], "params": [volumes, YES], **PLAIN}


def task_ps_optimized() -> Task:
    """Show the stack's services: state, health, addresses, image; [--json]"""
    return {"actions": [(_shown, ["tasks.stack.stack:ps"])], "params": [JSON], **QUIET}


def task_logs_optimized() -> Task:
    """Show what the stack's services wrote: [--follow] [--tail N] [--since T] [SERVICE …]"""
    return {
        "actions": [(act, ["tasks.stack.logs:logs"])],
        "params": [
            {"name": "follow", "long": "follow", "short": "f", **FLAG, "help": "go on until Ctrl-C"},
            {"name": "tail", "long": "tail", "type": str, "default": "100", "help": "how many lines, or `all`"},
            {"name": "since", "long": "since", "type": str, "default": "", "help": "such as 10m, or a time"},
        ],
        "pos_arg": "services",
        **QUIET,
    }


def task_dev_optimized() -> Task:
    """Bring the stack up and follow it: edits of sources and dependencies reach the running services"""
    return {"actions": [(_shown, ["tasks.stack.dev:dev"])], "task_dep": ["_env_file", "build_optimized"], **PLAIN}


def task_migrate_to_optimized() -> Task:
    """Replace a running standard deployment by the optimized one, keep its data, and go back if it is not healthy"""
    dry_run = {"name": "dry_run", "long": "dry-run", **FLAG, "help": "only show what would be done"}
    return {"actions": [(_shown, ["tasks.stack.migrate:migrate"])], "params": [dry_run, YES], **PLAIN}


def task_ci_build() -> Task:
    """Build what is stale, as a machine wants it: plain lines, a summary in Markdown, build.json in .build"""
    return {"actions": [(act, ["tasks.stack.ci:build"])], **QUIET}


def task_ci_test() -> Task:
    """Run the end-to-end tests on a stack of their own, and remove it: [PYTEST ARGUMENT …]"""
    return {
        "actions": [(_shown, ["tasks.stack.ci:test"])],
        "task_dep": ["_dev_environment", "build_optimized"],
        "pos_arg": "words",
        **QUIET,
    }


def _shown(function: str, /, *, task: Any, **options: Any) -> Any:
    """Act, with what happens to the stack shown."""
    from tasks.run import current
    from tasks.ui.health_view import StackView

    current().events.listen(StackView().heard)
    return act(function, task=task, **options)
