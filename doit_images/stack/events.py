"""What happens to a stack, as events (``base.events``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doit_images.core.base.events import Events
from doit_images.stack.health import Show, Verdict


@dataclass(frozen=True)
class WaitBegan:
    """Services are waited for until they are healthy; ``live``: nothing else is printed meanwhile."""

    live: bool


@dataclass(frozen=True)
class HealthChecked:
    """How each service is, so many seconds after the beginning."""

    verdicts: Mapping[str, Verdict]
    seconds: float


@dataclass(frozen=True)
class WaitEnded:
    """The wait is over."""


@dataclass(frozen=True)
class ServicesListed:
    """What is there, as ``status.rows`` gives it, for people."""

    rows: Sequence[Mapping[str, Any]]


@contextlib.contextmanager
def waiting(events: Events, live: bool = True) -> Iterator[Show]:
    """Emit that services are waited for in the block, and what the block is told of their health."""
    events.emit(WaitBegan(live))
    try:
        yield lambda verdicts, seconds: events.emit(HealthChecked(verdicts, seconds))
    finally:
        events.emit(WaitEnded())
