"""What does the help of one task, or of all tasks, say?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import doit_images
from doit_images.cli.options import COMMON, general, typed
from doit_images.cli.process import names
from doit_images.core.base.formatting import without_usage

_DAILY = ("build", "plan", "up", "ps", "logs", "dev", "shell", "down", "test_image", "doctor")
_COLUMN = 26


def of_task(task: Any, tasks: Mapping[str, Any]) -> str:
    """What ``doit TASK --help`` prints."""
    lines = [f"doit {task.name}", f"    {task.doc}" if task.doc else "", ""]
    if parts := [name for name in task.task_dep if name.startswith(f"{task.name}:") and "/" not in name]:
        lines += [f"of one: {', '.join(parts[:8])}{', …' if len(parts) > 8 else ''}", ""]
    return "\n".join([*lines, *map(_option, (*task.params, *general(task, tasks)))])


def of_all(tasks: Mapping[str, Any], ours: Iterable[str]) -> str:
    """What ``doit --help`` prints: what one needs each day, the rest of the package (``ours``: plain names), and
    what is the project's own."""
    shown = {name: task for name, task in tasks.items() if not task.subtask_of and not name.startswith("_")}
    daily = [name for name in map(names(), _DAILY) if name in shown]
    others = [name for name in map(names(), ours) if name in shown and name not in daily]
    own = [name for name in shown if name not in daily and name not in others]
    lines = [
        f"doit-images {doit_images.__version__}: builds exactly the images whose inputs changed, and says why",
        "",
        f"    doit [OPTION …] [TASK [OPTION …] …]      without a task: {names()('build')}",
        "    doit TASK --help                         what a task does and takes",
    ]
    for title, group in (("Every day", daily), ("More", others), ("This project's own", own)):
        lines += ["", title, *(_line(name, without_usage(shown[name].doc)) for name in group)] if group else []
    from doit.cmd_run import opt_always, opt_continue, opt_num_process

    lines += ["", "Options before a task", *map(_option, (opt_num_process, opt_always, opt_continue, *COMMON[1:]))]
    lines += ["", "Commands of doit: list, info, clean, forget, … (`doit help COMMAND`)"]
    return "\n".join(lines)


def _option(option: Mapping[str, object]) -> str:
    value = "" if option.get("type") is bool else f" {str(option.get('long') or option['name']).upper()}"
    default = f" (default: {option['default']})" if value and option["default"] not in ("", None) else ""
    text = str(option.get("help", "")).split(" [default", 1)[0]
    return _line(f"{', '.join(typed(option))}{value}", f"{text}{default}")


def _line(name: str, text: str) -> str:
    return f"  {name:{_COLUMN}}  {text}" if len(name) <= _COLUMN else f"  {name}\n  {'':{_COLUMN}}  {text}"
