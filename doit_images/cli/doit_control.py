"""Who selects the tasks that a command line asks for?

doit itself, where it is made of names of tasks alone. For all else it knows too little: that is ``cli.command_line``,
which a run with nothing to do need not load.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from doit import cmd_run, control


def _control(task_list: Sequence[Any], **given: Any) -> Any:
    if {task.name for task in task_list}.issuperset(sys.argv[1:]):
        return control.TaskControl(task_list, **given)
    from doit_images.cli.command_line import Control

    return Control(task_list, **given)


def install() -> None:
    """Let doit's ``run`` ask this, for it knows its own class by name alone."""
    cmd_run.TaskControl = _control


def installed() -> bool:
    """Whether the tasks are those of a dodo file with ``doit_images.tasks()``."""
    return cmd_run.TaskControl is _control


def is_quiet() -> bool:
    """Whether this command line asks that nothing is said but what fails."""
    options = sys.modules.get("doit_images.cli.options")
    return options is not None and options.QUIET["name"] in options.WISHES
