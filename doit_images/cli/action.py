"""What do tasks that do something once have in common, and how do they fail?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from doit_images.core.base.errors import UserError, os_reason

Task = dict[str, Any]


def option(long: str, default: object, help: str, name: str = "") -> Task:
    """An option of the type of its default (False: a flag). ``name`` is the action's parameter, if it differs."""
    name = name or long.replace("-", "_")
    return {"name": name, "long": long, "type": type(default), "default": default, "help": help}


JSON: Task = option("json", default=False, help="as JSON", name="as_json")
YES: Task = {**option("yes", default=False, help="do not ask"), "short": "y"}
# A task that prints, or talks with its user: no line of doit's own, and its output as it is.
PLAIN: Task = {"io": {"capture": False}, "uptodate": [False]}
QUIET: Task = {**PLAIN, "meta": {"quiet": True}}


def quiet(action: Callable[..., Any] | str, *options: Task, words: str = "") -> Task:
    """A quiet task that runs this action with these options; it takes all other words as the parameter ``words``."""
    return {"actions": [(act, [action])], "params": list(options), "pos_arg": words or None, **QUIET}


def act(function: Callable[..., Any] | str, /, *first: object, task: object, **options: object) -> Any:
    """The one way to run an action: call it with the run, what is given first, and the task's options by name.

    ``function`` may be the ``module:name`` of one that is imported only now: to list tasks, or to build, needs none of
    it. What is expected to go wrong becomes doit's failure, in one sentence. Whoever reads the output may have seen
    enough, as ``head`` does: that is the end, and no failure."""
    from doit_images.cli.process import current
    from doit_images.core.base import commands, extras

    failure = None
    try:
        try:
            options = with_words(task, options)
            if options.pop("--help", False):
                from doit_images.cli import help

                print(help.of_task(task, {}))
            else:
                with extras.told():
                    action = resolve_name(function) if isinstance(function, str) else function
                    action(current(), *first, **options)
        except UserError as error:
            failure = fail(str(error))
        except commands.Stopped:
            failure = fail("stopped")
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            failure = fail(os_reason(error))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try to write the rest once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failure


def with_words(task: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with those that stand behind the words, where doit's parser does not look for them. A task without
    options of its own has all words as they are; ``UserError`` for an option that the task does not know."""
    values = dict(options)
    if task.pos_arg not in values:  # it has none, or they are among what is given first
        return values
    if (task.meta or {}).get("verbatim"):
        return {**values, task.pos_arg: typed(values[task.pos_arg] or (), sys.argv[1:])}
    words, names = list(values[task.pos_arg] or ()), []
    if task.params:
        from doit.cmdparse import CmdOption, CmdParseError, TaskParse

        from doit_images.cli.options import HELP, wrong_option

        parser = TaskParse([CmdOption(option) for option in (*task.params, HELP)])
        while words:
            try:
                values, words = parser.parse_only(words, values)
            except CmdParseError as error:
                raise UserError(wrong_option(task.name, task.params, error)) from None
            names += words[:1]
            del words[:1]
    return {**values, task.pos_arg: names + words}


def typed(words: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The last words of a command line as they were typed: doit takes words with a ``=`` for its own variables.

    >>> typed(["web", "env"], ["shell", "--root", "web", "env", "A=1"])
    ['web', 'env', 'A=1']
    """
    for start in range(len(argv), -1, -1):
        if [word for word in argv[start:] if word.startswith("-") or "=" not in word] == list(words):
            return list(argv[start:])
    return list(words)


def fail(sentence: str) -> Any:
    """doit's failure with this sentence."""
    from doit.exceptions import TaskFailed

    from doit_images.cli.process import names

    return TaskFailed(names().in_text(sentence))
