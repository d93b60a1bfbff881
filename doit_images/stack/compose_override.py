"""Which Compose override lets a stack run beside that of another checkout?

Compose keeps apart by the project's name what the files give no name of its own. The rest is moved by an override
file, which is made from Compose's own answer: published ports, names of containers, networks and volumes, and what
stands for them elsewhere, fixed addresses, bridges. Each service runs the image that was built for this checkout by the
tag of its fingerprint: the image's own name is whoever's built last. What cannot be moved is said in a sentence. All of
this is pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import normalise
from doit_images.stack.images import Kept

# Below what systems hand out for outgoing connections, and above what `ci_test` takes.
PORTS = range(28_000, 32_000)
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_BRIDGE = "com.docker.network.bridge.name"
_CONTAINER = "container:"
_ENGINES_OWN = ("bridge", "host", "none")  # networks in which nobody has a name
_SPACES = {"network_mode": "network", "pid": "processes", "ipc": "shared memory"}
_MACHINES_OWN = ("/dev", "/proc", "/sys", "/run", "/var/run", "/tmp/.X11-unix")  # noqa: S108  mounted to be shared


def wanted_ports(config: Mapping[str, object]) -> dict[str, int]:
    """Every port that is published under a number of the files' choice, by what tells it from the others, with how many
    ports in a row it is."""
    return {_key(name, port): len(numbers) for name, port in _ports(config) if (numbers := _numbers(port))}


def published(config: Mapping[str, object]) -> set[int]:
    """Every port of this machine that the files choose."""
    return {number for _, port in _ports(config) for number in _numbers(port)}


def assigned(
    wanted: Mapping[str, int],
    kept: Mapping[str, int],
    taken: Collection[int],
    is_free: Callable[[int], bool],
    seed: str,
) -> dict[str, int]:
    """A number for each port: the one that it had (``kept``), if nobody else has it, else a free one of ``PORTS``.

    The search begins where ``seed`` says, so that two checkouts seldom want the same. ``UserError`` if none is free.
    """
    numbers: dict[str, int] = {}
    used = set(taken)
    for key, count in sorted(wanted.items()):
        starts = [kept[key]] if key in kept else []
        begin = crc32(f"{seed} {key}".encode()) % len(PORTS)
        starts += [PORTS[(begin + step) % len(PORTS)] for step in range(len(PORTS))]
        rows = (range(start, start + count) for start in starts if start + count <= PORTS.stop)
        row = next((row for row in rows if not used.intersection(row) and all(map(is_free, row))), None)
        if row is None:
            raise UserError(f"no port between {PORTS.start} and {PORTS.stop} is free for {key}")
        numbers[key] = row.start
        used.update(row)
    return numbers


def names_of_files(config: Mapping[str, object], elsewhere: Mapping[str, object]) -> set[str]:
    """The names of networks and volumes that the files choose: those that are the same in Compose's answer about
    another project's name."""
    names, others = (
        {each.get("name") for section in ("networks", "volumes") for _, each in _all(answer, section)}
        for answer in (config, elsewhere)
    )
    return {name for name in names & others if name and name not in _ENGINES_OWN}


def override(
    config: Mapping[str, Any], fixed: Collection[str], ports: Mapping[str, int], joined: Collection[str] = ()
) -> str:
    """The override file, as YAML, for a project that ``docker compose config`` gave this answer about under the name
    that its stack has here. ``fixed`` are the names that the files choose (``names_of_files``), ``joined`` the external
    networks that it is in as well."""
    stack = config["name"]
    networks = {name: dict(_network(stack, name, each, fixed, joined)) for name, each in _all(config, "networks")}
    volumes = {name: dict(_named(stack, name, each, fixed)) for name, each in _all(config, "volumes")}
    moved = {config["networks"][name]["name"]: f"{stack}_{name}" for name, entry in networks.items() if "name" in entry}
    kept = {name for name, network in _all(config, "networks") if _is_joined(network, joined)}
    change = _Change(_owners(config), moved, kept)
    lines = ["# made by `doit up`: what is another in this checkout's stack"]
    for section, entries in (
        ("services", {name: dict(_service(name, each, ports, change)) for name, each in _all(config, "services")}),
        ("networks", networks),
        ("volumes", volumes),
    ):
        changed = {name: entry for name, entry in entries.items() if entry}
        lines += [f"{section}:"] * bool(changed)
        for name, entry in changed.items():
            lines += [f"  {_yaml(name)}:", *(f"    {key}: {value}" for key, value in entry.items())]
    return "\n".join([*lines, ""])


def pinned(config: Mapping[str, object], images: Mapping[str, Kept]) -> str:
    """The override file, as JSON, that makes each service run this checkout's image: its own, or the one that another
    service builds under the name that it gives; and mount this checkout's."""
    tags = {normalise(name): image.tag for image in images.values() for name in image.names}
    services: dict[str, dict[str, object]] = {}
    for name, service in _all(config, "services"):
        own = images[name].tag if name in images else tags.get(normalise(service.get("image") or name))
        mounts = [mount for mount in service.get("volumes") or () if mount.get("type") == "image"]
        named = [(mount, tags.get(normalise(mount["source"]))) for mount in mounts]
        volumes = [{**mount, "source": tag} for mount, tag in named if tag]
        entry: dict[str, object] = {"image": own, "volumes": volumes}
        if kept := {key: value for key, value in entry.items() if value}:
            services[name] = kept
    # What Compose would take for a variable's is doubled, as in its answer.
    return json.dumps({"services": services}, indent=1, sort_keys=True).replace("$", "$$")


def shared(config: Mapping[str, object], root: Path, joined: Collection[str] = ()) -> list[str]:
    """What this stack still shares with that of another checkout, and what it lacks that the other has, a sentence
    each; ``root`` is the checkout's, ``joined`` as for ``override``."""
    owners = _owners(config)
    sentences = [text for name, service in _all(config, "services") for text in _shares(name, service, owners, root)]
    for name, network in _all(config, "networks"):
        users = ", ".join(user for user, each in _all(config, "services") if name in (each.get("networks") or {}))
        called = network.get("name") or name
        if called in _ENGINES_OWN:
            continue
        if _is_joined(network, joined):
            sentences.append(f"the network {called} is not made here: in it {users} is one name for all checkouts")
        elif network.get("external"):
            sentences.append(
                f"the network {called} belongs to others: here it is a separate network without their services"
                f" (STACK_NETWORKS={called} joins it; there {users} is one name for all checkouts)"
            )
        elif _fixed(network):
            sentences.append(f"the network {name} has other addresses here than its fixed {_fixed(network)}")
    for name, volume in _all(config, "volumes"):
        if volume.get("external"):
            sentences.append(f"the volume {volume.get('name') or name} belongs to others: here it is new and empty")
        elif device := (volume.get("driver_opts") or {}).get("device"):
            sentences.append(f"the volume {name} is {device} in all checkouts")
    return sentences


def _shares(name: str, service: Mapping[str, Any], owners: Mapping[str, str], root: Path) -> Iterator[str]:
    if service.get("network_mode") == "host":
        yield f"{name} is in the network of this machine: the ports that it listens on cannot be moved"
    for key, what in _SPACES.items():
        container = _container(service.get(key))
        if container and container not in owners:
            yield f"{name} has the {what} of the container {container}, which is not this stack's"
    for link in service.get("external_links") or ():
        yield f"{name} is linked to the container {link.partition(':')[0]}, which is not this stack's"
    mounted = any(mount.get("source") in _SOCKETS for mount in service.get("volumes") or ())
    if mounted or service.get("use_api_socket"):
        yield f"{name} has the engine's socket: it sees the containers of all checkouts"
    for path in _written(service, root):
        yield f"{name} writes to {path}, which lies outside of this checkout and is the same for all"


@dataclass(frozen=True)
class _Change:
    """What is called otherwise in this stack: the service of each container's name, the new name of each network that
    has one, and the networks that stay others'."""

    owners: Mapping[str, str]
    networks: Mapping[str, str]
    kept: Collection[str]

    def of(self, mode: str) -> str:
        """Another service's namespace, or a network, in this stack."""
        if owner := self.owners.get(_container(mode)):
            return f"service:{owner}"
        return self.networks.get(mode, mode)

    def source(self, text: str) -> str:
        """Whose volumes are mounted, in this stack: ``container:NAME[:ro]``, or a service."""
        container, colon, mode = text.removeprefix(_CONTAINER).partition(":")
        owner = self.owners.get(container) if text.startswith(_CONTAINER) else None
        return f"{owner}{colon}{mode}" if owner else text


def _owners(config: Mapping[str, object]) -> dict[str, str]:
    return {own: name for name, service in _all(config, "services") if (own := service.get("container_name"))}


def _container(mode: str | None) -> str:
    """The container that a service is put into, where it is named: ``container:NAME``."""
    return mode.removeprefix(_CONTAINER) if mode and mode.startswith(_CONTAINER) else ""


def _is_joined(network: Mapping[str, object], joined: Collection[str]) -> bool:
    return bool(network.get("external")) and network.get("name") in (*_ENGINES_OWN, *joined)


def _all(config: Mapping[str, Any], section: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, entry or {}) for name, entry in sorted((config.get(section) or {}).items())]


def _service(
    name: str, service: Mapping[str, Any], ports: Mapping[str, int], change: _Change
) -> Iterator[tuple[str, str]]:
    published = service.get("ports") or ()
    if any(map(_numbers, published)):
        yield "ports", f"!override {_yaml([_moved(name, port, ports) for port in published])}"
    own = service.get("container_name")
    if own:
        yield "container_name", "!reset null"
    for key in _SPACES:
        if (mode := service.get(key)) and change.of(mode) != mode:
            yield key, _yaml(change.of(mode))
    sources = service.get("volumes_from") or []
    if (moved := [change.source(text) for text in sources]) != sources:
        yield "volumes_from", f"!override {_yaml(moved)}"
    networks = {}
    for key, joined in (service.get("networks") or {}).items():
        # The engine lets a container be found by its name: it is still found by the one that others know. Not where
        # these are no stack's of a checkout: there it is the name of the first one's.
        parts = [f"aliases: {_yaml([own])}"] if own and key not in change.kept else []
        parts += [f"{word}: !reset null" for word in ("ipv4_address", "ipv6_address") if (joined or {}).get(word)]
        if parts:
            networks[key] = f"{_yaml(key)}: {{{', '.join(parts)}}}"
    if networks:
        yield "networks", f"{{{', '.join(networks.values())}}}"


def _network(
    stack: str, name: str, network: Mapping[str, Any], fixed: Collection[str], joined: Collection[str]
) -> Iterator[tuple[str, str]]:
    if _is_joined(network, joined):
        return
    yield from _named(stack, name, network, fixed)
    if _fixed(network):
        yield "ipam", "!reset null"
    if _BRIDGE in (network.get("driver_opts") or {}):
        yield "driver_opts", f"{{{_yaml(_BRIDGE)}: !reset null}}"


def _named(stack: str, name: str, resource: Mapping[str, object], fixed: Collection[str]) -> Iterator[tuple[str, str]]:
    """A name of this stack's own for what would be the same one in another."""
    if resource.get("external"):
        yield "external", "false"
    if resource.get("external") or resource.get("name") in fixed:
        yield "name", _yaml(f"{stack}_{name}")


def _fixed(network: Mapping[str, Any]) -> str:
    pools = ((network.get("ipam") or {}).get("config")) or ()
    return ", ".join(pool["subnet"] for pool in pools if pool.get("subnet"))


def _written(service: Mapping[str, Any], root: Path) -> list[str]:
    """The paths of this machine outside of the checkout that a service may write to."""
    mounts = [mount for mount in service.get("volumes") or () if mount.get("type") == "bind"]
    sources = {Path(mount["source"]) for mount in mounts if not mount.get("read_only")}
    own = {Path(root), *(Path(folder) for folder in _MACHINES_OWN)}
    return sorted(str(path) for path in sources if not own.intersection((path, *path.parents)))


def _ports(config: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, port) for name, service in _all(config, "services") for port in service.get("ports") or ())


def _key(service: str, port: Mapping[str, object]) -> str:
    address = f"{port['host_ip']}:" if port.get("host_ip") else ""
    return f"{service} {address}{port['published']}:{port['target']}/{port.get('protocol') or 'tcp'}"


def _numbers(port: Mapping[str, object]) -> range:
    """The ports that this publishes under numbers of the files' choice."""
    first, _, last = str(port.get("published") or "0").partition("-")
    return range(int(first), int(last or first) + 1) if int(first) else range(0)


def _moved(service: str, port: Mapping[str, object], ports: Mapping[str, int]) -> dict[str, object]:
    count = len(_numbers(port))
    if not count:
        return dict(port)
    first = ports[_key(service, port)]
    return {**port, "published": str(first) if count == 1 else f"{first}-{first + count - 1}"}


def _yaml(value: object) -> str:
    """A value as YAML on one line, with each ``$`` doubled: Compose would take it for a variable's."""
    return json.dumps(value).replace("$", "$$")
