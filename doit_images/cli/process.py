"""What exists once in a process: its run, and the parts that the run is composed of."""

from __future__ import annotations

import resource
import signal
import sys
from functools import cache

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.task_names import TaskNames
from doit_images.core.run import Parts, Run
from doit_images.share.connection import Machines

_COMPOSED = [Parts(peers=Machines)]


def begin() -> None:
    """Let Ctrl-C end this process without a word, also before its run begins (``base.commands`` hears it from then on),
    and let no memory with secrets get to the disk. In doit's own process only: whoever else imports us has own ways."""
    if "doit.doit_cmd" not in sys.modules or "pytest" in sys.modules:
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # doitw blocks it until here
    # A crash, or Ctrl-\, writes no core dump, nor does it of what we start. 1 and not 0: a program that collects them
    # (`core_pattern`) gets them also where it is 0.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))


def compose(parts: Parts) -> None:
    """Compose the run of this process of these parts. Must be called before the run is used."""
    _COMPOSED[:] = [parts]
    current.cache_clear()


def parts() -> Parts:
    """What the run of this process is composed of."""
    return _COMPOSED[0]


def names() -> TaskNames:
    """What the tasks are called here."""
    return _COMPOSED[0].names


def base_task() -> list[str]:
    """The task that brings the base image that the project makes itself, if it does and can be read."""
    try:
        base = current().own_base
    except UserError:
        base = None
    return [base.task] if base else []


@cache
def current() -> Run:
    """The run of this process."""
    run = Run(parts=parts())
    commands.listen(run.heard_command)
    commands.watch(lambda: run.engine.hangs())
    leftovers.keep_in(lambda: run.journals)
    return run
