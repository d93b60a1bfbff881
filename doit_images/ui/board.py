"""What is each image doing right now?

A ``Board`` hears the events of a run, from whatever thread, doit's reporter tells it which images there are, and it
tells people, on standard error: on a terminal as a live board (``ui.live``), elsewhere as one line when an image
begins and one block when it ends.

Nothing here imports rich or starts a thread before an image is really built or pulled.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from doit_images.core.base.events import CommandStarted, Said
from doit_images.core.base.formatting import because, cut, seconds_text
from doit_images.core.base.task_names import PLAIN, TaskNames
from doit_images.core.building.events import ImageState
from doit_images.core.planning.plan import Action
from doit_images.ui.rows import BAD, GOOD, IDLE, VERBS, Row

if TYPE_CHECKING:
    from rich.live import Live

    from doit_images.core.buildkit.progress import Progress, ProgressEvent

_LOOK_SECONDS = 0.2
_RETAG_SECONDS = 0.1
_LONGEST_LABEL = 90


class Board:
    """The state of all images of this run, and the place where people see it."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        workers: Callable[[], int] = lambda: 1,
        names: TaskNames = PLAIN,
        quiet: bool = False,
    ) -> None:
        """``stream`` is where people read lines (default: standard error, drawn on where that is a terminal).
        ``workers`` says how many images can be worked on at once; ``names`` what tasks are called here; ``quiet``
        whether only what fails is said."""
        self._workers, self._names, self._quiet = workers, names, quiet
        self._lock = threading.RLock()
        self._stream = stream
        self._live: bool | None = False if quiet or stream else None
        self._view: Live | None = None
        self._paused = 0
        self.rows: dict[str, Row] = {}
        self.verbose = False
        """Whether BuildKit's own output is shown, line by line (``-v 2``)."""
        self.shows_commands = False
        """Whether each command is shown (``-v 2``)."""
        self._opened = time.monotonic()

    def heard(self, event: object) -> None:
        """An event of the run (``base.events``, ``building.events``)."""
        # What a run with nothing to do never hears of takes it 2 ms to import.
        from doit_images.core.building.events import ImageEnded, ImageNoted, ImagesPlanned, ImageStarted, StepsChanged

        match event:
            case Said(text):
                self.say(self._names.in_text(text))
            case CommandStarted(line) if self.shows_commands:
                self.say(f"$ {line}")
            case ImagesPlanned(actions):
                self.plan(actions)
            case ImageStarted(image, action, reasons, expected):
                self.started(image, action, reasons, expected)
            case ImageNoted(image, text):
                self.note(image, text)
            case StepsChanged(image, progress, changes):
                self.fed(image, progress, changes)
            case ImageEnded(image, state, progress, size):
                self.ended(image, state, progress=progress, size=size)

    def expect(self, images: Mapping[str, Sequence[str]]) -> None:
        """Which images belong to this run, each with the parents that it waits for."""
        with self._lock:
            for image, parents in images.items():
                self._row(image).parents = tuple(parents)

    def plan(self, actions: Mapping[str, tuple[Action, float | None]]) -> None:
        """What will be done to each image of this run that has not begun, and how long that takes as history knows."""
        with self._lock:
            for image, (action, seconds) in actions.items():
                row = self.rows.get(image)
                if row is not None and row.state == ImageState.UNKNOWN:
                    row.action, row.expected = action, _RETAG_SECONDS if action == Action.RETAG else seconds

    def started(self, image: str, action: Action, reasons: Sequence[str] = (), expected: float | None = None) -> None:
        """Work on an image begins; ``action`` is one of ``VERBS``."""
        with self._lock:
            row = self._row(image)
            row.action, row.state, row.began, row.ended = action, ImageState.RUNNING, time.monotonic(), 0.0
            row.doing = VERBS[action]
            row.expected = expected if expected is not None else row.expected
            row.reported = False
            if action == Action.RETAG:
                return
            if not self._show() or self.verbose:
                about = f", about {seconds_text(row.expected)}" if row.expected else ""
                self.say(f"{row.doing} {image}{because(reasons)}{about}")

    def note(self, image: str, text: str) -> None:
        """What an image waits for or does besides BuildKit's steps."""
        with self._lock:
            row = self._row(image)
            if row.doing != text:
                row.doing = text
                if self._view is None and not row.over:
                    self.say(f"{image}: {text}")

    def fed(self, image: str, progress: Progress, changes: Sequence[ProgressEvent]) -> None:
        """BuildKit said something about an image: what ``progress.feed`` returned."""
        if self.verbose:
            lines = [f"{image} | {change.line}" for change in changes if change.line]
            if lines:
                self.say("\n".join(lines))
        now = time.monotonic()
        row = self.rows.get(image)
        if row is None or (now - row.looked < _LOOK_SECONDS and not any(change.notable for change in changes)):
            return
        row.looked = now
        summary, step = progress.summary(), progress.current()
        with self._lock:
            row.done, row.total = summary.done, summary.total
            if step is not None:
                current, size = progress.transfer(step)
                moved = f" {current / 1e6:.0f} of {size / 1e6:.0f} MB" if size > 1_000_000 else ""
                row.doing = step.label + moved

    def ended(
        self, image: str, state: ImageState, *, progress: Progress | None = None, size: int | None = None
    ) -> None:
        """Work on an image is over; ``state`` is one of ``GOOD`` or ``BAD``.

        What went wrong is not said here: doit hands the action's failure to the reporter, which says it.
        """
        with self._lock:
            row = self._row(image)
            row.state, row.ended = state, time.monotonic()
            if state in GOOD and state not in IDLE and not row.reported:
                row.reported = True
                self.say("\n".join([self._headline(row, progress, size), *self._block(progress)]))

    def fail(self, image: str, text: str, state: ImageState = ImageState.FAILED, cause: str = "") -> None:
        """Say why an image could not be built, once; ``cause`` is the parent that it was blocked by."""
        with self._lock:
            row = self._row(image)
            row.state = row.state if row.state in BAD else state
            row.ended, row.cause = row.ended or time.monotonic(), cause
            if text and not row.reported:
                row.reported = True
                self.say(text, needed=True)

    def say(self, text: str, *, needed: bool = False) -> None:
        """Show text to people, as one contiguous block, above the live board if there is one; unless it is ``needed``
        not to those who want it quiet."""
        with self._lock:
            if self._quiet and not needed:
                return
            if self._view is not None:
                from doit_images.ui.live import print_above

                print_above(self._view, text)
            else:
                stream = self._stream or sys.stderr
                stream.write(text + "\n")
                stream.flush()

    def pause(self) -> None:
        """Take the live board away and leave the terminal as it was, for something else that writes to it or for good;
        ``resume`` brings it back."""
        with self._lock:
            self._paused += 1
            view, self._view = self._view, None
            if view is not None:
                view.stop()

    def resume(self) -> None:
        """The other writer is done."""
        with self._lock:
            self._paused -= 1
            if any(row.state == ImageState.RUNNING and row.action != Action.RETAG for row in self.rows.values()):
                self._show()

    def _row(self, image: str) -> Row:
        return self.rows.setdefault(image, Row(image))

    def _show(self) -> bool:
        if self._paused or self._view is not None:
            return self._view is not None
        if self._live is None:
            self._live = wants_live()
        if self._live:
            from doit_images.ui.live import Picture, on_terminal

            self._view = on_terminal(Picture(self.rows, self._workers, self._opened))
            self._view.start()
        return self._view is not None

    def _headline(self, row: Row, progress: Progress | None, size: int | None) -> str:
        facts = [f"{row.state} {row.image} in {seconds_text(row.elapsed(time.monotonic()))}"]
        if progress is not None and (summary := progress.summary()).total:
            facts.append(f"{summary.cached} of {summary.total} steps cached")
        if size is not None:
            facts.append(f"{size / 1e6:.0f} MB")
        return ", ".join(facts)

    def _block(self, progress: Progress | None) -> list[str]:
        if progress is None or self._view is not None or self.verbose:
            return []
        steps = sorted(progress.steps, key=lambda step: step.index)
        executed = [step for step in steps if step.work and step.completed and not step.cached]
        return [f"    {seconds_text(step.seconds):>7}  {cut(step.label, _LONGEST_LABEL)}" for step in executed]


def wants_live() -> bool:
    """Whether standard error is a terminal whose owner did not ask for plain lines."""
    asked = any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
    return not asked and os.environ.get("TERM", "dumb") != "dumb" and sys.stderr.isatty()
