"""Which tasks does a command line select, and what is wrong with one that cannot be understood?

Each task has ``--help`` and ``-q``, and those that build have ``--dry-run``, ``--pull``, ``--watch`` and ``--events``.
An unknown task, image or option is answered with the nearest one that there is; doit's own answer to a wrong option
lists its internal objects.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial

from doit import cmd_run, control
from doit.cmdparse import CmdParseError
from doit.exceptions import InvalidCommand
from doit.task import Task

from doit_images.cli.options import (
    DRY_RUN,
    EVENTS,
    HELP,
    PULL,
    QUIET,
    WATCH,
    WISHES,
    builds,
    general,
    names,
    take,
    wrong_option,
)
from doit_images.cli.part import as_once, narrow
from doit_images.core.base.errors import nearest

WORDS = "_words_for_completion"
"""In place of a task: asks for everything that a shell may offer (``cli.completion``)."""


class Control(control.TaskControl):  # type: ignore[misc]
    """doit's selection of tasks, with the above."""

    selected_tasks: list[str]

    def process(self, task_selection: list[str] | None) -> None:
        """Select what these words ask for. Raises doit's ``InvalidCommand``, which doit prints as one sentence;
        ``SystemExit`` where they ask for help or for words, once these are printed."""
        if task_selection == [WORDS]:
            from doit_images.cli import completion

            completion.show(self.tasks)
            raise SystemExit
        task_selection = as_once(task_selection, self.tasks, sys.argv) if task_selection else task_selection
        for word in task_selection or ():
            if word in self.tasks:
                self.tasks[word].init_options = partial(self._options, self.tasks[word])
        try:
            super().process(task_selection)
        except InvalidCommand as error:
            if not (word := error.not_found):
                raise
            words = list(task_selection or ())
            before = words[words.index(word) - 1] if word in words[1:] else ""
            raise InvalidCommand(unknown_task(word, self.tasks, before)) from None
        for name in self.selected_tasks:
            narrow(self.tasks[name])
        if DRY_RUN["name"] in WISHES:
            self._plan_instead()
        elif WATCH["name"] in WISHES:
            self._watch_instead()
        elif PULL["name"] in WISHES:
            for name in map(names(), map("build:{}".format, dict.fromkeys(_images(self.tasks)))):
                self.tasks[name].task_dep.append(names()("_pull_bases"))

    def _options(self, task: Task, words: list[str] | None = None) -> list[str] | None:
        """In place of ``Task.init_options``: the same, which also takes the options that every task has."""
        if words and (task.meta or {}).get("passed"):  # not one of these words is for us
            words = words if words[0] == "--" else ["--", *words]
        elif task.options is None and words:
            return self._options_read(task, words)
        rest: list[str] | None = Task.init_options(task, words)
        return rest

    def _options_read(self, task: Task, words: list[str]) -> list[str] | None:
        own, task.params = task.params, [*task.params, *general(task, self.tasks)]
        try:
            rest: list[str] | None = Task.init_options(task, words)
        except CmdParseError as error:
            raise InvalidCommand(wrong_option(task.name, task.params, error)) from None
        finally:
            task.params = own
        take(task.options)
        if HELP["name"] in WISHES:
            from doit_images.cli import help

            print(help.of_task(task, self.tasks))
            raise SystemExit
        return rest

    def _plan_instead(self) -> None:
        """Select the plan of what is selected, and say which tasks would come after it."""
        selected = self.selected_tasks
        if other := [name for name in selected if not builds(self.tasks[name], self.tasks)]:
            raise InvalidCommand(f"`{other[0]}` has no dry run")
        self._instead("plan", *({PULL["name"]} & WISHES))
        for task in (self.tasks[name] for name in selected if self.tasks[name].actions):
            if not (task.meta or {}).get("image"):
                print(f"dry run: after what is planned here, `{task.name}` would run: {task.doc}", file=sys.stderr)

    def _watch_instead(self) -> None:
        """Select what builds the images of what is selected after each edit."""
        for task in (self.tasks[name] for name in self.selected_tasks):
            if not builds(task, self.tasks) or (task.actions and not (task.meta or {}).get("image")):
                dev = names().in_text("`doit dev` follows the edits of a stack")
                raise InvalidCommand(f"`{task.name}` builds more than images, or none ({dev})")
        self._instead("_watch")

    def _instead(self, plain: str, *options: str) -> None:
        """Select this task with these options, for the images of what is selected."""
        from doit_images.ui.reporter import selected_images

        images, every = set(selected_images(self.tasks, self.selected_tasks)), set(_images(self.tasks))
        task = self.tasks[names()(plain)]
        task.options = None
        task.init_options([*options])
        task.pos_arg_val = [] if images == every else sorted(images)
        self.selected_tasks = [task.name]


def install() -> None:
    """Let doit's ``run`` select tasks so: it takes a class for many things, but this one it knows by name alone."""
    cmd_run.TaskControl = Control


def installed() -> bool:
    """Whether the tasks are those of a dodo file with ``doit_images.tasks()``."""
    return cmd_run.TaskControl is Control


def is_quiet() -> bool:
    """Whether this command line asks that nothing is said but what fails."""
    return QUIET["name"] in WISHES


def tells_events() -> bool:
    """Whether it asks for what happens, as lines of JSON."""
    return EVENTS["name"] in WISHES


def unknown_task(word: str, tasks: Mapping[str, Task], before: str = "") -> str:
    """That there is no such task, and which was meant: by its own name, by that of an image, or by that of a part of
    the task that stands ``before`` it.

    >>> unknown_task("paln", {"plan": Task("plan", None)})
    'unknown task `paln` (did you mean `plan`?)'
    """
    meant = {image: names()(f"build:{image}") for image in _images(tasks)}
    meant |= {name: name for name in tasks if not name.startswith("_")}
    meant |= {name.partition(":")[2]: name for name in tasks if before and name.startswith(f"{before}:")}
    close = nearest(word, meant)
    remedy = f"did you mean `{meant[close]}`?" if close else "`doit list` names them all"
    return names().in_text(f"unknown task `{word}` ({remedy})")


def _images(tasks: Mapping[str, Task]) -> Iterator[str]:
    yield from (image for task in tasks.values() if (image := (task.meta or {}).get("image")))
