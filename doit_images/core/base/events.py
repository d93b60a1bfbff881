"""What happens in a run? Parts that show or keep it listen to these events.

Who makes something happen emits an event, a small frozen dataclass, and knows none of those who listen. The events of
builds are in ``building.events``, those of a stack in ``stack.events``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Listener = Callable[[object], None]


class Said(NamedTuple):
    """A sentence for people."""

    text: str


class CommandStarted(NamedTuple):
    """A command is about to be started: its line, as it can be pasted into a shell."""

    line: str


class CommandEnded(NamedTuple):
    """A command that the user gave has ended with this status, and so is the run to."""

    status: int


class Events:
    """The events of one run. Any thread may emit; listeners are called in that thread, in the order in which they
    came."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with each event from now on."""
        self._listeners = (*self._listeners, listener)

    def emit(self, event: object) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(event)

    def say(self, text: str) -> None:
        """Emit a sentence for people."""
        self.emit(Said(text))
