"""How is a registry reached: at which address, with TLS or without, and which certificates count?

As the engine does it, which pushes and pulls there: with what ``/etc/docker/certs.d/HOST`` holds; on loopback, and
where its ``insecure-registries`` say so, with any certificate, or without TLS where nobody answers to that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_HUB_NAMES = (HUB, "index.docker.io", _HUB_API)
HUB_LOGIN = "https://index.docker.io/v1/"
"""By which name `docker login` keeps the one at Docker Hub."""
_FOLDERS = (Path("/etc/docker/certs.d"), Path("~/.config/docker/certs.d"))  # the second of an engine without root
_LOOPBACK = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$")


class Certificates(NamedTuple):
    """Files: further authorities, and pairs of a certificate and a key with which this machine shows itself."""

    authorities: tuple[Path, ...] = ()
    own: tuple[tuple[Path, Path], ...] = ()


def api_host(host: str) -> str:
    """The host that answers for a registry's name.

    >>> api_host("docker.io"), api_host("registry.example.org:5000")
    ('registry-1.docker.io', 'registry.example.org:5000')
    """
    return _HUB_API if host in _HUB_NAMES else host


def certificates(host: str) -> Certificates:
    """What the engine has for this registry: ``*.crt`` are authorities, ``*.cert`` and ``*.key`` this machine's own."""
    authorities: list[Path] = []
    own: list[tuple[Path, Path]] = []
    for folder in _FOLDERS:
        place = folder.expanduser() / host
        authorities += sorted(place.glob("*.crt"))
        own += [(file, key) for file in sorted(place.glob("*.cert")) if (key := file.with_suffix(".key")).is_file()]
    return Certificates(tuple(authorities), tuple(own))


def on_loopback(host: str) -> bool:
    """Whether a registry is on this very machine by its name."""
    return bool(_LOOPBACK.match(host))


def insecure(host: str, info: Mapping[str, Any]) -> bool:
    """Whether the engine takes this registry without TLS or with any certificate, by its own answer to ``/info``.

    >>> insecure("10.1.2.3:5000", {"RegistryConfig": {"InsecureRegistryCIDRs": ["10.0.0.0/8"]}})
    True
    """
    known = info.get("RegistryConfig") or {}
    named = (known.get("IndexConfigs") or {}).get(host)
    if isinstance(named, dict):
        return named.get("Secure") is False
    try:
        address = ipaddress.ip_address(re.sub(r"(?<=[\]\d]):\d+$", "", host).strip("[]"))
        networks = [ipaddress.ip_network(each, strict=False) for each in known.get("InsecureRegistryCIDRs") or ()]
    except ValueError:
        return False
    return any(address in network for network in networks)
