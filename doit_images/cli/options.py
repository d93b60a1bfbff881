"""Which options does every task have, which of them were given, and what is wrong with an unknown one?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from getopt import GetoptError
from typing import TYPE_CHECKING, Any

from doit.cmd_run import Run
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand

from doit_images.core.base.errors import nearest

if TYPE_CHECKING:
    from doit.task import Task

    from doit_images.core.base.task_names import TaskNames

Options = Sequence[Mapping[str, Any]]


def _flag(long: str, help: str, **short: str) -> dict[str, Any]:
    return {"name": f"--{long}", "long": long, "type": bool, "default": False, "help": help, **short}


HELP = _flag("help", "show this", short="h")
QUIET = _flag("quiet", "say only what fails", short="q")
DRY_RUN = _flag("dry-run", "only say what would be built, and why: as `plan` does")
PULL = _flag("pull", "ask the registries of external bases first, and pull those that moved")
WATCH = _flag("watch", "go on with whatever an edit makes stale, until Ctrl-C")
EVENTS = {**_flag("events", "also what happens, as lines on standard output: json"), "type": str, "default": ""}
COMMON = (HELP, QUIET, DRY_RUN, PULL, WATCH, EVENTS)

WISHES: set[str] = set()
"""Which of these options this command line has, by name."""


def general(task: Task, tasks: Mapping[str, Task]) -> Iterator[dict[str, Any]]:
    """The options that a task has besides its own."""
    taken = {option.get(kind) for option in task.params for kind in ("short", "long")}
    for option in COMMON if builds(task, tasks) else (HELP, QUIET):
        if option["long"] not in taken:
            yield {key: value for key, value in option.items() if key != "short" or value not in taken}


def builds(task: Task, tasks: Mapping[str, Task]) -> bool:
    """Whether what a task builds is what the plan says: not so one that builds in any case."""
    build = names()("build")
    waiting, seen = [task.name], set[str]()
    while waiting:
        name = waiting.pop()
        if name.partition(":")[0] == build:
            return True
        if name in tasks and name not in seen:
            seen.add(name)
            waiting += tasks[name].task_dep
    return False


def take(given: Any) -> None:
    """Take the options that every task has out of what was given, and keep which these are. Raises doit's
    ``InvalidCommand``."""
    values = {option["name"]: given.pop(option["name"], None) for option in COMMON}
    if values[EVENTS["name"]] not in (None, "", "json"):
        raise InvalidCommand(f"--events={values[EVENTS['name']]} is not known (there is --events=json)")
    WISHES.update(name for name, value in values.items() if value)


def wrong_option(task: str, options: Options, error: CmdParseError) -> str:
    """What is wrong with the options of a task, or of doit itself (""), which getopt could not read."""
    cause = error.__context__
    of, help = (f"`{task}`", f"`doit {task} --help`") if task else ("doit", "`doit --help`")
    if not isinstance(cause, GetoptError) or not cause.msg.endswith("not recognized"):
        return f"{of}: {cause or error} ({help})"
    word = cause.msg.split()[1]
    remedy = f"{help} lists those that it has"
    if task and any(word in typed(option) for option in Run.cmd_options):
        remedy = f"doit's own stand before the task: `doit {word} … {task}`"
    elif close := nearest(word, [one for option in options for one in typed(option) if len(one) > 2]):
        remedy = f"did you mean {close}?"
    return f"{of} has no option {word} ({remedy})"


def typed(option: Mapping[str, object]) -> list[str]:
    """How an option may be typed."""
    return [f"{dashes}{option[kind]}" for dashes, kind in (("-", "short"), ("--", "long")) if option.get(kind)]


def names() -> TaskNames:
    """What the tasks are called here."""
    from doit_images.cli import process  # doit's command `run` is made of this module, for any dodo file

    return process.names()
