"""What do people see while doit runs?

A reporter of doit (``DOIT_CONFIG = {"reporter": Reporter}``). Tasks that make an image carry its name in
``meta={"image": name}``; they are rows of the board. Any other task is one line, and its own output passes
through; with ``meta={"quiet": True}`` it has no line. Everything goes to standard error; standard output is for
data.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from doit.reporter import ZeroReporter

from doit_images.core.base import commands
from doit_images.core.base.formatting import seconds_text, without_usage
from doit_images.core.building.events import ImageState
from doit_images.core.run import Run
from doit_images.ui.board import Board
from doit_images.ui.rows import BAD

if TYPE_CHECKING:
    from doit.exceptions import BaseFail
    from doit.task import Task

_USER_ERROR = "doit_images.core.base.errors.UserError: "


class Reporter(ZeroReporter):  # type: ignore[misc]
    """doit calls the methods below, some of them from the threads that run tasks. What it says else is not shown."""

    desc = "images as a live board on a terminal, as lines elsewhere"

    def __init__(self, outstream: TextIO, options: Mapping[str, object], run: Run) -> None:
        """``outstream`` is doit's ``--output-file``, used only when it is one; of ``options`` only ``quiet`` is, for
        those who want to hear nothing but what fails. ``run`` is what is shown."""
        run.count_workers = _workers
        self._run = run
        stream = None if outstream is sys.stdout else outstream
        quiet = bool(options.get("quiet"))
        self._board = Board(stream, workers=lambda: run.workers, names=run.parts.names, quiet=quiet)
        run.events.listen(self._board.heard)
        self._began = time.monotonic()
        self._asked: set[str] = set()
        self._failed: dict[str, str] = {}
        self._others: list[str] = []
        self._told: set[str] = set()
        self._aborted: list[str] = []

    def initialize(self, tasks: Mapping[str, Task], selected: Sequence[str]) -> None:
        """The tasks are known: tell the board which images are checked, and which waits for which."""
        self._asked = set(selected)
        commands.stop_on_signals()
        self._run.selected = frozenset(selected_images(tasks, selected))
        self._board.expect(
            {
                image: [parent for name in task.task_dep if (parent := _image(tasks.get(name)))]
                for task in reversed(list(_needed(tasks, selected, lambda task: True)))
                if (image := _image(task))
            }
        )

    def execute_task(self, task: Task) -> None:
        """A task begins, in the thread that runs it."""
        self._board.shows_commands = (task.verbosity or 0) >= 2
        if _image(task):
            self._board.verbose = self._board.shows_commands
        elif _visible(task):
            self._board.pause()
            if not (task.name in self._asked and not task.io.capture):  # who asked for it knows, and it talks itself
                self._board.say(f"{task.title()}: {without_usage(task.doc)}" if task.doc else f".  {task.title()}")

    def add_success(self, task: Task) -> None:
        """A task is done."""
        if image := _image(task):
            row = self._board.rows[image]
            if not row.over:
                self._board.ended(image, ImageState.BUILT)
        elif _visible(task):
            self._board.resume()

    def skip_uptodate(self, task: Task) -> None:
        """A task was fresh."""
        if image := _image(task):
            self._board.ended(image, ImageState.FRESH)
        elif _visible(task) and task.name in self._asked:
            self._board.say(f"-- {task.title()}")

    def skip_ignore(self, task: Task) -> None:
        """The user told doit to ignore a task."""
        self._board.say(f"!! {task.title()} is ignored (`doit forget {task.name}` ends that)")

    def add_failure(self, task: Task, fail: BaseFail) -> None:
        """A task failed, or could not begin because one that it needs failed."""
        from doit.exceptions import UnmetDependency

        image = _image(task)
        if isinstance(fail, UnmetDependency):
            root = self._failed.get(fail.message.split()[0], fail.message.split()[0])
            self._failed[task.name] = root
            if image:
                self._board.fail(image, "", ImageState.BLOCKED, cause=root)
            elif _visible(task):
                self._board.say(f"!! {task.title()}: not run, `{root}` failed", needed=True)
            return
        self._failed[task.name] = image or task.name
        text = sentence(fail) if fail.report else ""
        if text in self._told:  # another failed of the same
            text = ""
        self._told.add(text)
        if image:
            self._board.fail(image, text)
            return
        if _visible(task) and task.executed:
            self._board.resume()
        self._others.append(task.name)
        if text:
            self._board.say(f"!! {task.title()} failed: {text}" if _visible(task) else text, needed=True)

    def cleanup_error(self, exception: BaseFail) -> None:
        """A teardown failed."""
        self._board.say(sentence(exception), needed=True)

    def runtime_error(self, msg: str) -> None:
        """Doit itself cannot go on."""
        self._aborted.append(msg.strip())

    def complete_run(self) -> None:
        """The run is over, well or badly or by Ctrl-C: clear the terminal and say what came of it."""
        self._board.pause()
        interrupted = sys.exc_info()[0] is not None
        line = summary(self._board, time.monotonic() - self._began, self._others)
        for text in [*self._aborted, *([line] if line else [])]:
            self._board.say(f"interrupted: {text}" if interrupted else text, needed=interrupted or bool(self._failed))


def selected_images(tasks: Mapping[str, Task], selected: Sequence[str]) -> Iterator[str]:
    """The images that are asked for: those of the selected tasks and of what these group, not what images need."""
    return filter(None, map(_image, _needed(tasks, selected, lambda task: not _image(task))))


def _needed(tasks: Mapping[str, Task], selected: Sequence[str], goes_on: Callable[[Task], bool]) -> Iterator[Task]:
    """The selected tasks and those that they need, as far as ``goes_on`` says of each."""
    seen: set[str] = set()
    waiting = list(selected)
    while waiting:
        name = waiting.pop()
        if name not in seen and name in tasks:
            seen.add(name)
            yield tasks[name]
            waiting += (*tasks[name].task_dep, *tasks[name].setup_tasks) if goes_on(tasks[name]) else ()


def summary(shown: Board, seconds: float, others: Sequence[str] = ()) -> str:
    """The last line of a run: how many images ended how, what was not built because of whom, and which ``others``
    failed; none after the failure of one of these if nothing was built."""
    rows = list(shown.rows.values())
    counts = {
        state: sum(row.state == state for row in rows)
        for state in (ImageState.BUILT, ImageState.RETAGGED, ImageState.PULLED)
    }
    fresh = sum(row.state == ImageState.FRESH for row in rows)
    bad = {state: [row for row in rows if row.state == state] for state in BAD}
    unfinished = sum(row.state == ImageState.RUNNING for row in rows)
    if not any(counts.values()) and not any(bad.values()) and not unfinished:
        return f"{fresh} image{'s' * (fresh != 1)} fresh" if fresh and not others else ""
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    parts += [f"{fresh} fresh"] if fresh else []
    words = {
        ImageState.FAILED: "failed",
        ImageState.INPUTS_CHANGED: "changed while built",
        ImageState.CANCELLED: "cancelled",
    }
    parts += [f"{len(bad[s])} {word} ({_names(bad[s])})" for s, word in words.items() if bad[s]]
    parts += [f"{unfinished} stopped"] if unfinished else []
    waiting = [row for row in rows if row.state == ImageState.UNKNOWN]
    parts += [f"{len(waiting)} not begun ({_names(waiting)})"] if waiting and any(bad.values()) else []
    for cause in dict.fromkeys(row.cause for row in bad[ImageState.BLOCKED]):
        blocked = [row for row in bad[ImageState.BLOCKED] if row.cause == cause]
        parts.append(f"{len(blocked)} not built ({_names(blocked)}: `{cause}` failed)")
    parts += [f"`{name}` failed" for name in others]
    return f"{', '.join(parts)}, in {seconds_text(seconds)}"


def sentence(fail: BaseFail) -> str:
    """What a failure says to people: our own errors in one sentence, the unexpected with its traceback."""
    trace = "".join(fail.traceback or "")
    if _USER_ERROR in trace:
        return trace.rpartition(_USER_ERROR)[2].strip()
    return f"{fail.message.strip()}\n{trace}".strip()


def _names(rows: Sequence[Any]) -> str:
    return ", ".join(row.image for row in rows)


def _image(task: Task | None) -> str:
    return str((task.meta or {}).get("image") or "") if task is not None else ""


def _visible(task: Task) -> bool:
    return bool(task.actions) and not task.name.startswith("_") and not (task.meta or {}).get("quiet")


def _workers() -> int:
    """Doit tells no reporter how many workers there are; in a parallel run each is a thread of this kind."""
    from doit.runner import MThreadRunner

    return max(1, sum(isinstance(thread, MThreadRunner.DaemonThread) for thread in threading.enumerate()))
