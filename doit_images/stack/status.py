"""Which services are there, as plain data?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doit_images.stack.containers import Container
from doit_images.stack.health import Outcome


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    """What came of waiting, as ``rows``."""
    return rows(list(outcome.verdicts), outcome.containers)


def rows(services: Sequence[str], containers: Sequence[Container]) -> list[dict[str, Any]]:
    """What is there, as plain data: a row for each container, and one for each service that has none."""
    listed = [_row(container) for container in containers]
    missing = [name for name in services if name not in {container.service for container in containers}]
    empty = {"container": "", "health": "", "restarts": 0, "addresses": {}, "image": "", "image_id": ""}
    listed += [{"service": name, "state": "missing", **empty} for name in missing]
    return sorted(listed, key=lambda row: (row["service"], row["container"]))


def _row(container: Container) -> dict[str, Any]:
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
