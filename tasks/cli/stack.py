"""Which tasks run the stack? What each does is imported when it acts: to list them, or to build, needs none of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.cli.action import FLAG, PLAIN, QUIET, Task, act

_YES: Task = {"name": "yes", "long": "yes", "short": "y", **FLAG, "help": "do not ask"}


def task__env_file() -> Task:
    """Make .env from .env.example with strong random secrets, where there is none"""
    return {"actions": [(_make_env,)], **QUIET}


def task_up_optimized() -> Task:
    """Build what is stale, start what changed, and wait until every service is healthy"""
    return {"actions": [(_up,)], "task_dep": ["_env_file", "build_optimized"], **PLAIN}


def task_down_optimized() -> Task:
    """Remove the stack's containers and keep its data; [--volumes] [--yes] also removes the data"""
    volumes = {"name": "volumes", "long": "volumes", **FLAG, "help": "remove the data too, for ever"}
    return {"actions": [(_down,)], "params": [volumes, _YES], **PLAIN}


def task_ps_optimized() -> Task:
    """Show the stack's services: state, health, addresses, image; [--json]"""
    as_json = {"name": "as_json", "long": "json", **FLAG, "help": "as JSON"}
    return {"actions": [(_ps,)], "params": [as_json], **QUIET}


def task_logs_optimized() -> Task:
    """Show what the stack's services wrote: [--follow] [--tail N] [--since T] [SERVICE …]"""
    return {
        "actions": [(_logs,)],
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
    return {"actions": [(_dev,)], "task_dep": ["_env_file", "build_optimized"], **PLAIN}


def task_migrate_to_optimized() -> Task:
    """Replace a running standard deployment by the optimized one, keep its data, and go back if it is not healthy"""
    dry_run = {"name": "dry_run", "long": "dry-run", **FLAG, "help": "only show what would be done"}
    return {"actions": [(_migrate,)], "params": [dry_run, _YES], **PLAIN}


def task_ci_build() -> Task:
    """Build what is stale, as a machine wants it: plain lines, a summary in Markdown, build.json in .build"""
    return {"actions": [(_ci_build,)], **QUIET}


def task_ci_test() -> Task:
    """Run the end-to-end tests on a stack of their own, and remove it: [PYTEST ARGUMENT …]"""
    return {"actions": [(_ci_test,)], "task_dep": ["_dev_environment", "build_optimized"], "pos_arg": "words", **QUIET}


def _act(run: Any, *words: Any) -> Any:
    """Act, with what happens to the stack shown."""
    from tasks.run import current
    from tasks.ui.health_view import StackView

    current().events.listen(StackView().heard)
    return act(run, *words)


def _make_env() -> Any:
    from tasks.stack.stack import make_env

    return act(make_env)


def _up() -> Any:
    from tasks.stack.stack import up

    return _act(up)


def _down(volumes: bool, yes: bool) -> Any:
    from tasks.stack.stack import down

    return act(down, volumes, yes)


def _ps(as_json: bool) -> Any:
    from tasks.stack.stack import ps

    return _act(ps, as_json)


def _logs(services: Sequence[str], follow: bool, tail: str, since: str) -> Any:
    from tasks.stack.logs import logs

    return act(logs, services, follow, tail, since)


def _dev() -> Any:
    from tasks.stack.dev import dev

    return _act(dev)


def _migrate(dry_run: bool, yes: bool) -> Any:
    from tasks.stack.migrate import migrate

    return _act(migrate, dry_run, yes)


def _ci_build() -> Any:
    from tasks.stack.ci import build

    return act(build)


def _ci_test(words: Sequence[str]) -> Any:
    from tasks.stack.ci import test

    return _act(test, words)
