"""doit with this package's own command line: ``python -m doit_images.cli`` and ``./doitw`` take what ``doit`` takes.

Before a dodo file is loaded nothing of ours runs in a plain ``doit``. What stands before the first task, ``--help`` and
``--version`` are read then. Two commands of doit, ``run`` and ``help``, are therefore ours wherever this package is
installed (entry points ``doit.COMMAND`` in ``pyproject.toml``); they do for other dodo files what doit's own do.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import doit.version
from doit import cmd_help, cmd_run
from doit.cmd_base import DoitCmdBase
from doit.cmdparse import CmdParseError
from doit.doit_cmd import DoitMain
from doit.exceptions import InvalidCommand, InvalidDodoFile

import doit_images
from doit_images.cli import command_line, options

_NO_TASK = re.compile(r"'(.*)' is not a task\.")


class Clear:
    """A command of doit that says in one sentence what is wrong with its options and tasks."""

    def parse_execute(self, args: list[str]) -> Any:
        """Do what these words ask for. Raises doit's ``InvalidCommand``."""
        command: Any = self
        try:
            return super().parse_execute(args)  # type: ignore[misc]
        except CmdParseError as error:
            of = "" if command.name == "run" else command.name
            known = [{"short": option.short, "long": option.long} for option in command.cmdparser.options]
            raise InvalidCommand(options.wrong_option(of, known, error)) from None
        except InvalidCommand as error:
            if not command_line.installed() or not (unknown := _NO_TASK.fullmatch(str(error))):
                raise
            raise command.no_task(unknown[1]) from None
        except KeyError as error:  # `doit info` of a task that there is none
            if not command_line.installed() or error.args[0] not in args:
                raise
            raise command.no_task(error.args[0]) from None

    def no_task(self, name: str) -> InvalidCommand:
        """That none is called so."""
        command: Any = self
        return InvalidCommand(command_line.unknown_task(name, {task.name: task for task in command.task_list}))


class Run(Clear, cmd_run.Run):  # type: ignore[misc]
    """``doit run``, which also takes the options that every task has."""

    name = "run"
    cmd_options = (*cmd_run.Run.cmd_options, *options.COMMON[1:])

    def execute(self, params: object, args: list[str]) -> Any:
        """Load the dodo file, and run these tasks."""
        options.take(params)
        load = self.loader.load_tasks

        def load_ours(**given: object) -> Any:
            if options.WISHES and not command_line.installed():
                raise InvalidCommand("-q, --dry-run, --watch and --events are of dodo files with `doit_images.tasks()`")
            return load(**given)

        self.loader.load_tasks = load_ours
        return super().execute(params, args)


class Help(Clear, cmd_help.Help):  # type: ignore[misc]
    """``doit help`` of the tasks of this package, and of those beside them."""

    name = "help"

    def execute(self, params: object, args: list[str]) -> Any:
        """Print what is asked for; what doit says where there is no dodo file, or none with our tasks."""
        if len(args) > 1 or args == ["task"] or set(args) & set(self.cmds):
            return super().execute(params, args)
        try:
            done = DoitCmdBase.execute(self, params, args)
        except InvalidDodoFile:
            done = False
        if not done:
            _doits_usage(self, self.cmds)
        return 0

    def _execute(self, pos_args: list[str]) -> bool:
        if not command_line.installed():
            return bool(pos_args) and bool(super()._execute(pos_args))
        from doit_images.cli import catalogue, help

        tasks = {task.name: task for task in self.task_list}
        if pos_args and pos_args[0] not in tasks:
            raise self.no_task(pos_args[0])
        print(help.of_task(tasks[pos_args[0]], tasks) if pos_args else help.of_all(tasks, catalogue.TASKS))
        return True


class Main(DoitMain):  # type: ignore[misc]
    """doit with these commands, and with the version of this package beside its own."""

    BIN_NAME = "./doitw" if os.environ.get("DOITW_FROM") else "doit"
    DOIT_CMDS = tuple(
        {"run": Run, "help": Help}.get(cmd.get_name()) or type(cmd.__name__, (Clear, cmd), {"name": cmd.get_name()})
        for cmd in DoitMain.DOIT_CMDS
    )

    @staticmethod
    def print_version() -> None:
        """What ``--version`` prints."""
        print(f"doit-images {doit_images.__version__} (doit {'.'.join(map(str, doit.version.VERSION))})")

    def run(self, all_args: Sequence[str]) -> int:
        """Do what these words ask for, and return how that ended, as doit does."""
        first = ["help"] if all_args[:1] in (["-h"], ["--help"]) else all_args[:1]
        return int(super().run([*first, *all_args[1:]]) or 0)


def main() -> int:
    """The command line of this process; returns its exit status."""
    return Main().run(sys.argv[1:])


_doits_usage = cmd_help.Help.print_usage


def _usage(self: Any, cmds: Any) -> None:
    """``doit --help`` asks doit's own class for this, whatever the command ``help`` is."""
    Help(task_loader=self.loader, config=self.config, bin_name=self.bin_name, cmds=self._cmds).parse_execute([])


cmd_help.Help.print_usage = _usage
