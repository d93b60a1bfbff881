"""What must be another in a stack, so that it runs beside that of another checkout?

Compose keeps apart by the project's name what the files give no name of its own. The rest is moved by an override
file, which is made from Compose's own answer: published ports, names of containers, networks and volumes, fixed
addresses. Each service runs the image that was built for this checkout by the tag of its fingerprint: the image's own
name is whoever's built last. What cannot be moved is said in a sentence. All of this is pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from tasks.base.errors import UserError
from tasks.engine.client import normalise
from tasks.stack.images import Kept

# Below what systems hand out for outgoing connections, and above what `ci_test` takes.
PORTS = range(28_000, 32_000)
_MACHINES_OWN = ("/dev", "/proc", "/sys", "/run", "/var/run", "/tmp/.X11-unix")  # noqa: S108  mounted to be shared


def wanted_ports(config: Mapping[str, Any]) -> dict[str, int]:
    """Every port that is published under a number of the files' choice, by what tells it from the others, with how many
    ports in a row it is."""
    services = config.get("services") or {}
    return {
        _key(name, port): count
        for name, service in services.items()
        for port in service.get("ports") or ()
        if (count := _count(port))
    }


def published(config: Mapping[str, Any]) -> set[int]:
    """Every port of this machine that the files choose."""
    ports = [port for _, service in _all(config, "services") for port in service.get("ports") or ()]
    starts = [(int(str(port["published"]).partition("-")[0]), _count(port)) for port in ports if _count(port)]
    return {start + step for start, count in starts for step in range(count)}


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


def override(config: Mapping[str, Any], ports: Mapping[str, int]) -> str:
    """The override file, as YAML, for a project that ``docker compose config`` gave this answer about under the name
    that its stack has here."""
    stack = config["name"]
    lines = ["# made by `doit up_optimized`: what is another in this checkout's stack"]
    for section, entries in (
        ("services", {name: dict(_service(name, each, ports)) for name, each in _all(config, "services")}),
        ("networks", {name: dict(_network(stack, name, each)) for name, each in _all(config, "networks")}),
        ("volumes", {name: dict(_volume(stack, name, each)) for name, each in _all(config, "volumes")}),
    ):
        changed = {name: entry for name, entry in entries.items() if entry}
        lines += [f"{section}:"] * bool(changed)
        for name, entry in changed.items():
            lines += [f"  {_yaml(name)}:", *(f"    {key}: {value}" for key, value in entry.items())]
    return "\n".join([*lines, ""])


def pinned(config: Mapping[str, Any], images: Mapping[str, Kept]) -> str:
    """The override file, as JSON, that makes each service run this checkout's image: its own, or the one that another
    service builds under the name that it gives."""
    tags = {normalise(name): image.tag for image in images.values() for name in image.names}
    services = {}
    for name, service in _all(config, "services"):
        own = images[name].tag if name in images else tags.get(normalise(service.get("image") or name))
        if own:
            services[name] = {"image": own}
    return json.dumps({"services": services}, indent=1, sort_keys=True)


def shared(config: Mapping[str, Any], root: Path) -> list[str]:
    """What this stack still shares with that of another checkout, and what it lacks that the other has, a sentence
    each; ``root`` is the checkout's."""
    sentences = []
    for name, service in _all(config, "services"):
        if service.get("network_mode") == "host":
            sentences.append(f"{name} is in the network of this machine: the ports it listens on cannot be moved")
        for path in _written(service, root):
            sentences.append(f"{name} writes to {path} as in every checkout: it lies outside of this one")
    for name, network in _all(config, "networks"):
        if network.get("external"):
            users = ", ".join(user for user, each in _all(config, "services") if name in (each.get("networks") or {}))
            called = network.get("name") or name
            sentences.append(f"the network {called} is not made here: in it {users} is one name for all checkouts")
        elif _fixed(network):
            sentences.append(f"the network {name} has other addresses here than {_fixed(network)}")
    for name, volume in _all(config, "volumes"):
        if volume.get("external"):
            sentences.append(f"the volume {volume.get('name') or name} is not this stack's: it has an empty one")
        elif device := _device(volume):
            sentences.append(f"the volume {name} is {device} in every checkout")
    return sentences


def _all(config: Mapping[str, Any], section: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, entry or {}) for name, entry in sorted((config.get(section) or {}).items())]


def _service(name: str, service: Mapping[str, Any], ports: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    published = service.get("ports") or ()
    if any(map(_count, published)):
        yield "ports", f"!override {_yaml([_moved(name, port, ports) for port in published])}"
    own = service.get("container_name")
    if own:
        yield "container_name", "!reset null"
    networks = {}
    for key, joined in (service.get("networks") or {}).items():
        # The engine lets a container be found by its name: it is still found by the one that others know.
        parts = [f"aliases: {_yaml([own])}"] if own else []
        parts += [f"{word}: !reset null" for word in ("ipv4_address", "ipv6_address") if (joined or {}).get(word)]
        if parts:
            networks[key] = f"{_yaml(key)}: {{{', '.join(parts)}}}"
    if networks:
        yield "networks", f"{{{', '.join(networks.values())}}}"


def _network(stack: str, name: str, network: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if network.get("external"):
        return
    if _is_named(stack, network):
        yield "name", _yaml(f"{stack}_{name}")
    if _fixed(network):
        yield "ipam", "!reset null"


def _volume(stack: str, name: str, volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if volume.get("external"):
        yield "external", "false"
    if volume.get("external") or _is_named(stack, volume):
        yield "name", _yaml(f"{stack}_{name}")


def _is_named(stack: str, resource: Mapping[str, Any]) -> bool:
    """Whether the files give it a name of its own, which does not hold the project's."""
    return stack not in (resource.get("name") or stack)


def _fixed(network: Mapping[str, Any]) -> str:
    pools = ((network.get("ipam") or {}).get("config")) or ()
    return ", ".join(pool["subnet"] for pool in pools if pool.get("subnet"))


def _device(volume: Mapping[str, Any]) -> str:
    options = volume.get("driver_opts") or {}
    return str(options.get("device") or "")


def _written(service: Mapping[str, Any], root: Path) -> list[str]:
    """The paths of this machine outside of the checkout that a service may write to."""
    mounts = [mount for mount in service.get("volumes") or () if mount.get("type") == "bind"]
    sources = {Path(mount["source"]) for mount in mounts if not mount.get("read_only")}
    own = {Path(root), *(Path(folder) for folder in _MACHINES_OWN)}
    return sorted(str(path) for path in sources if not own.intersection((path, *path.parents)))


def _key(service: str, port: Mapping[str, Any]) -> str:
    address = f"{port['host_ip']}:" if port.get("host_ip") else ""
    return f"{service} {address}{port['published']}:{port['target']}/{port.get('protocol') or 'tcp'}"


def _count(port: Mapping[str, Any]) -> int:
    """How many ports in a row this publishes under numbers of the files' choice."""
    first, _, last = str(port.get("published") or "0").partition("-")
    return int(last or first) - int(first) + 1 if int(first) else 0


def _moved(service: str, port: Mapping[str, Any], ports: Mapping[str, int]) -> dict[str, Any]:
    count = _count(port)
    if not count:
        return dict(port)
    first = ports[_key(service, port)]
    return {**port, "published": str(first) if count == 1 else f"{first}-{first + count - 1}"}


def _yaml(value: Any) -> str:
    """A value as YAML on one line, with each ``$`` doubled: Compose would take it for a variable's."""
    return json.dumps(value).replace("$", "$$")
