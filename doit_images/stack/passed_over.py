"""What do the files say that the Compose which is here reads, and does not do?

Distributions build an old Compose with a newer reader of files: Debian's 2.26 takes ``post_start`` and runs none. What
its reader does not know Compose refuses itself. What no Compose does, such as what Swarm alone does with
``deploy.placement``, is not said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doit_images.core.buildkit.buildx import is_at_least
from doit_images.core.compose.stack import Compose

# Since which version Compose does what a key of a service says, of one of its networks or volumes, of a network.
_SERVICE = {"post_start": (2, 30), "pre_stop": (2, 30), "gpus": (2, 30)}
_JOINED = {"driver_opts": (2, 28), "gw_priority": (2, 34)}
_NETWORK = {"enable_ipv4": (2, 34)}
_BIND = {"recursive": (2, 30)}


def sentences(config: Mapping[str, object], compose: Compose) -> list[str]:
    """A sentence for each such key in Compose's answer about this project; which version it is, is asked only where one
    of them is there."""
    found = list(_found(config))
    version = compose.run("version", "--short").stdout.strip() if found else ""
    return [
        f"{where} is passed over by Compose {version}: {'.'.join(map(str, since))} is the first that does what it says"
        for where, since in found
        if not is_at_least(version, since)
    ]


def _found(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, service in (config.get("services") or {}).items():
        yield from _of(f"services.{name}", service, _SERVICE)
        for network, joined in (service.get("networks") or {}).items():
            yield from _of(f"services.{name}.networks.{network}", joined, _JOINED)
        for mount in service.get("volumes") or ():
            yield from _of(f"services.{name}.volumes.bind", mount.get("bind"), _BIND)
    for name, network in (config.get("networks") or {}).items():
        yield from _of(f"networks.{name}", network, _NETWORK)


def _of(
    place: str, declared: Mapping[str, Any] | None, known: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[str, tuple[int, int]]]:
    for key, since in known.items():
        if key in (declared or {}):
            yield f"{place}.{key}", since
