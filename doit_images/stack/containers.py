"""In which state are a project's containers?

Found by Compose's own labels, so that nothing has to be remembered, and looked at through the engine's SDK.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from doit_images.core.base.errors import UserError
from doit_images.core.base.timestamps import epoch_seconds
from doit_images.core.engine.api import Api, sdk_client, silent
from doit_images.core.engine.endpoint import endpoint

PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"
_DIRECTORY = "com.docker.compose.project.working_dir"
_HOOK = "com.docker.compose.hook"
ONE_OFF = "com.docker.compose.oneoff"
_TRIES, _PAUSE = 20, 0.25
_GOING = (403, 404, 409)  # it is gone already, just going, or still used by what is going: it is looked at again
# What Compose calls a new container until the one that it replaces is gone.
_REPLACING = re.compile(r"^[0-9a-f]{12}_")


@dataclass(frozen=True)
class Container:
    """One container of a service, at the moment it was looked at.

    ``health`` is empty where nothing checks it, ``started`` seconds since the epoch (0: never), ``start_period``
    what its health check grants it to begin, ``restarts`` how often the engine had to start it again, ``ports``
    where its ports are published, as ``address:port → port``, ``volumes`` the named volume at each mount point,
    ``user`` what it runs as, as its image or Compose says it, ``error`` why the engine could not start it, ``images``
    the names of the images that it mounts, ``created`` seconds since the epoch.
    """

    id: str
    name: str
    service: str
    image: str
    image_id: str
    state: str
    health: str = ""
    exit_code: int = 0
    restarts: int = 0
    started: float = 0.0
    start_period: float = 0.0
    ports: Mapping[int, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    always: bool = False
    project: str = ""
    user: str = ""
    error: str = ""
    images: tuple[str, ...] = ()
    created: float = 0.0

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.state == "running"


@dataclass(frozen=True)
class Event:
    """The engine did something to a container of a service: ``die``, ``start``, ``health_status: healthy`` …"""

    service: str
    action: str
    time: float


@dataclass(frozen=True)
class Belongings:
    """All that the engine holds of a project, by name."""

    containers: tuple[str, ...]
    networks: tuple[str, ...]
    volumes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.containers or self.networks or self.volumes)


@dataclass(frozen=True)
class Composed:
    """What Compose made of a project from one folder: the ports of this machine that it has now, the names of its
    containers, and those of the networks that they are in and of the volumes that they mount."""

    project: str
    directory: str
    ports: set[int] = field(default_factory=set)
    containers: set[str] = field(default_factory=set)
    resources: set[str] = field(default_factory=set)


class Containers:
    """The containers of one Compose project. Every method raises ``UserError`` when the engine does not answer."""

    def __init__(self, project: str) -> None:
        self.project = project
        self._filter = {"label": [f"{PROJECT}={project}"]}

    def look(self) -> list[Container]:
        """All containers of the project's services, stopped ones included, by name."""
        import docker.errors

        containers = []
        with _answering():
            for listed in _api().containers(all=True, filters=self._filter):
                # One may go between the two questions.
                with contextlib.suppress(docker.errors.NotFound):
                    if container := container_of(_api().inspect_container(listed["Id"])):
                        containers.append(container)
        # Compose's own, for a moment: what it replaces still has its labels, under another name.
        return sorted(containers, key=lambda container: container.name)

    @contextlib.contextmanager
    def events(self) -> Iterator[queue.Queue[Event]]:
        """What happens to the project's containers from now on, as it happens."""
        happened: queue.Queue[Event] = queue.Queue()
        filters = {**self._filter, "type": "container"}
        # A moment ago rather than now: nothing between this call and the engine's answer may be lost.
        with _answering():
            stream = _client().events(decode=True, filters=filters, since=int(time.time()))
        thread = threading.Thread(target=_forward, args=(stream, happened), daemon=True)
        thread.start()
        try:
            yield happened
        finally:
            with contextlib.suppress(Exception):
                stream.close()

    def logs(self, container_id: str, tail: int | str = "all", *, stdout: bool = True) -> str:
        """The last lines that a container wrote, whichever stream they went to; or those to standard error alone."""
        with _answering():
            data: bytes = _api().logs(container_id, stdout=stdout, stderr=True, tail=tail)
        return data.decode(errors="replace")

    def last_check(self, container_id: str) -> str:
        """What the last health check of a container printed."""
        with _answering():
            health = _api().inspect_container(container_id)["State"].get("Health") or {}
        outputs = [entry.get("Output") or "" for entry in health.get("Log") or ()]
        return outputs[-1].strip() if outputs else ""

    def put_names_right(self) -> None:
        """Give back their names to containers that a killed Compose left half-way through replacing them."""
        there = self.look()
        names = {container.name for container in there}
        for container in there:
            name = _REPLACING.sub("", container.name)
            if name != container.name and name not in names:
                with _answering(*_GOING):
                    _api().rename(container.id, name)

    def belongings(self) -> Belongings:
        """What the engine holds of this project: containers, networks and volumes that carry its label."""
        containers, networks, volumes = _listed(self._filter)
        return Belongings(
            tuple(sorted(container["Names"][0].lstrip("/") for container in containers if container.get("Names"))),
            tuple(sorted(network["Name"] for network in networks)),
            tuple(sorted(volume["Name"] for volume in volumes)),
        )

    def remove(self) -> None:
        """Remove all of them, data included. Needs no Compose file, and another may be doing the same."""
        there = self.belongings()
        for _ in range(_TRIES):
            removals = [(partial(_api().remove_container, v=True, force=True), name) for name in there.containers]
            removals += [(_api().remove_network, name) for name in there.networks]
            removals += [(_api().remove_volume, name) for name in there.volumes]
            for remove, name in removals:
                with _answering(*_GOING):
                    remove(name)
            there = self.belongings()
            if not there:
                return
            time.sleep(_PAUSE)
        names = ", ".join((*there.containers, *there.networks, *there.volumes))
        raise UserError(f"the Docker engine still holds {names}", remedy=f"docker compose -p {self.project} down -v")


def composed() -> list[Composed]:
    """Whatever Compose made, stopped containers included. ``UserError`` when the engine does not answer."""
    with _answering():
        listed = _api().containers(all=True, filters={"label": [PROJECT, _DIRECTORY]})
    found: dict[tuple[str, str], Composed] = {}
    for container in listed:
        key = container["Labels"][PROJECT], container["Labels"][_DIRECTORY]
        stack = found.setdefault(key, Composed(*key))
        stack.ports.update(port["PublicPort"] for port in container.get("Ports") or () if port.get("PublicPort"))
        stack.containers.add((container.get("Names") or [""])[0].lstrip("/"))
        stack.resources.update((container.get("NetworkSettings") or {}).get("Networks") or ())
        stack.resources.update(mount["Name"] for mount in container.get("Mounts") or () if mount.get("Name"))
    return list(found.values())


def projects(pattern: str) -> list[str]:
    """The Compose projects that the engine holds anything of, whose whole name matches ``pattern``."""
    resources = chain(*_listed({"label": [PROJECT]}))
    names = {(resource.get("Labels") or {}).get(PROJECT, "") for resource in resources}
    return sorted(name for name in names if re.fullmatch(pattern, name))


def _listed(filters: Mapping[str, list[str]]) -> tuple[list[Any], list[Any], list[Any]]:
    """The containers, networks and volumes that these filters meet, as the engine lists them."""
    with _answering():
        containers, networks = _api().containers(all=True, filters=filters), _api().networks(filters=filters)
        return containers, networks, _api().volumes(filters=filters).get("Volumes") or []


def container_of(inspected: Mapping[str, Any]) -> Container | None:
    """The container in the engine's answer to ``docker inspect``; None for one of ``docker compose run``, or of a hook
    before a service starts, which Compose 5 leaves there when it fails."""
    config, state, host = inspected["Config"], inspected["State"], inspected.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    if labels.get(ONE_OFF) == "True" or _HOOK in labels:
        return None
    check = config.get("Healthcheck") or {}
    health = (state.get("Health") or {}).get("Status") or ""
    mounts = inspected.get("Mounts") or ()
    return Container(
        id=inspected["Id"],
        name=inspected["Name"].lstrip("/"),
        service=labels.get(SERVICE) or "",
        image=config["Image"],
        image_id=inspected["Image"],
        state=state["Status"],
        health="" if health == "none" else health,
        exit_code=state.get("ExitCode") or 0,
        restarts=inspected.get("RestartCount") or 0,
        started=epoch_seconds(state.get("StartedAt")),
        start_period=(check.get("StartPeriod") or 0) / 1e9,
        ports=dict(_published((inspected.get("NetworkSettings") or {}).get("Ports") or {})),
        volumes={mount["Destination"]: mount["Name"] for mount in mounts if mount["Type"] == "volume"},
        always=(host.get("RestartPolicy") or {}).get("Name") in ("always", "unless-stopped"),
        project=labels.get(PROJECT) or "",
        user=config.get("User") or "",
        error=state.get("Error") or "",
        images=tuple(mount["Name"] for mount in mounts if mount["Type"] == "image"),
        created=epoch_seconds(inspected.get("Created")),
    )


def _published(ports: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Where each port of the container is reached: one address, by preference one of IPv4."""
    for inner, bindings in sorted(ports.items()):
        for binding in sorted(bindings or (), key=lambda binding: ":" in (binding.get("HostIp") or "")):
            address = binding.get("HostIp") or "0.0.0.0"  # noqa: S104  what the engine says
            shown = f"[{address}]" if ":" in address else address
            yield int(inner.partition("/")[0]), f"{shown}:{binding['HostPort']}"
            break


def _forward(stream: Iterable[Mapping[str, Any]], happened: queue.Queue[Event]) -> None:
    # The stream ends when it is closed, which its reader meets as one of several errors.
    with contextlib.suppress(Exception):
        for event in stream:
            service = (event.get("Actor") or {}).get("Attributes", {}).get(SERVICE, "")
            seconds = (event.get("timeNano") or 0) / 1e9 or float(event.get("time") or 0)
            happened.put(Event(service, str(event.get("Action") or ""), seconds))


_local = threading.local()


def _client() -> Any:
    """A client of its own for each caller that keeps a connection busy."""
    address = endpoint()
    return sdk_client(address, Api(address).version())


def _api() -> Any:
    if not hasattr(_local, "client"):
        _local.client = _client()
    return _local.client


@contextlib.contextmanager
def _answering(*expected: int) -> Iterator[None]:
    """The engine's errors as ``UserError``, but ``NotFound`` as it is; none for the statuses that are ``expected``."""
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code in expected:
            return
        if isinstance(error, docker.errors.NotFound):
            raise
        raise UserError(f"the Docker engine refuses: {error.explanation or error}") from None
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise silent(endpoint(), error) from None
