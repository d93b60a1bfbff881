"""What happens to a stack, as events (``base.events``), and which services are there, as plain data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from doit_images.core.base.events import Events
from doit_images.stack.containers import Container
from doit_images.stack.health import ServiceHealth, Show, Waited


@dataclass(frozen=True)
class WaitBegan:
    """Services are waited for until they are healthy; ``live``: nothing else is printed meanwhile."""

    live: bool


@dataclass(frozen=True)
class HealthChecked:
    """How each service is, so many seconds after the beginning."""

    verdicts: Mapping[str, ServiceHealth]
    seconds: float


@dataclass(frozen=True)
class WaitEnded:
    """The wait is over."""


@dataclass(frozen=True)
class ServicesListed:
    """What is there, as ``rows`` gives it, for people."""

    rows: Sequence[Mapping[str, object]]


@contextlib.contextmanager
def waiting(events: Events, *, live: bool = True) -> Iterator[Show]:
    """Emit that services are waited for in the block, and what the block is told of their health."""
    events.emit(WaitBegan(live))
    try:
        yield lambda verdicts, seconds: events.emit(HealthChecked(verdicts, seconds))
    finally:
        events.emit(WaitEnded())


def rows_of(outcome: Waited) -> list[dict[str, object]]:
    """What came of waiting, as ``rows``."""
    return rows(list(outcome.verdicts), outcome.containers)


def rows(services: Sequence[str], containers: Sequence[Container]) -> list[dict[str, object]]:
    """What is there, as plain data: a row for each container, and one for each service that has none."""
    listed = [_row(container) for container in containers]
    missing = [name for name in services if name not in {container.service for container in containers}]
    empty = {"container": "", "health": "", "restarts": 0, "addresses": {}, "image": "", "image_id": ""}
    listed += [{"service": name, "state": "missing", **empty} for name in missing]
    return sorted(listed, key=lambda row: (row["service"], row["container"]))


def _row(container: Container) -> dict[str, object]:
    return {
        "service": container.service,
        "container": container.name,
        "state": container.state,
        "health": container.health,
        "restarts": container.restarts,
        "addresses": {str(port): address for port, address in container.ports.items()},
        "image": container.image,
        "image_id": container.image_id,
    }
