"""How is the engine asked? Its HTTP API, in one version, over whatever leads to it.

On a Unix socket it is asked over plain HTTP, because importing the SDK takes longer than everything else that a run
with nothing to do needs (0.08 s, see docs/decisions.md). ``ssh://`` becomes a Unix socket here, whose connections are
the docker command's own: ``ssh HOST docker system dial-stdio``. TCP, with TLS or without, goes through the SDK.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.engine.endpoint import endpoint, tls, where_from

if TYPE_CHECKING:
    from http.client import HTTPConnection

# The newest version that the tests have met. A later engine answers in this one, as it did then.
OURS = "1.51"
_ALIVE_SECONDS = 10.0  # an engine that works answers /_ping in a thousandth of one, also while it builds
_FAR_SECONDS = 60.0  # ssh logs in first
_USUAL_SECONDS = 60.0
LONG_SECONDS = 3600.0
"""For a request that takes as long as there is to do: the engine is waited for as long as it answers others."""
_REMEMBERED_SECONDS = 30.0  # so long one that hung is not asked again: each image of a run would wait for it
_PING, _RESTART = "/_ping", "look into its log, and restart it: systemctl restart docker"
_AHEAD_SECONDS = 2.0  # what was asked longer ago is asked again: who does not read files meanwhile does something else


class NotFound(UserError):
    """The engine holds nothing of that name."""


class Hangs(UserError):
    """The engine takes connections and answers nothing."""


class Api:
    """The API of the engine at ``address``. Every method but ``ask`` and ``forget`` raises ``UserError`` when the
    engine does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._version = ""
        self._client: Any = None
        self._asked: dict[str, tuple[float, HTTPConnection]] = {}
        self._hung: tuple[float, Hangs] | None = None

    def ask(self, *paths: str) -> None:
        """Send these ahead, if the engine is near: it finds the answers while this process does something else."""
        self.forget()
        for path in paths if self.address.startswith("unix://") else ():
            with contextlib.suppress(UserError):  # an engine that is needed later says it then
                self._asked[path] = time.monotonic(), self._sent("GET", self._versioned(path))

    def forget(self) -> None:
        """Do not take answers to what was asked ahead."""
        asked, self._asked = self._asked, {}
        for _, connection in asked.values():
            connection.close()

    def call(self, method: str, path: str, seconds: float = _USUAL_SECONDS) -> Any:
        """The engine's answer to this, waited for so long, or until it is silent at ``/_ping`` too; ``UserError`` with
        its own words where it refuses."""
        when, connection = self._asked.pop(path, (0.0, None))
        if connection is None or time.monotonic() - when > _AHEAD_SECONDS:
            status, body, _ = self._ask_now(method, self._versioned(path), seconds)
        else:
            status, body, _ = self._answer(connection, seconds)
        if status >= 400:
            raise self._refused(NotFound if status == 404 else UserError, f"{method} {path.split('?')[0]}", body)
        return json.loads(body) if body.strip() else None

    def version(self) -> str:
        """The version that both understand: ours, or the engine's where that is older."""
        if not self._version:
            headers = self._ping()
            self._version = min(headers.get("api-version") or OURS, OURS, key=_number)
        return self._version

    def hangs(self) -> str:
        """A sentence, where the engine takes connections and says nothing; else "": a process that is stopped, or waits
        for a disk that does not answer, does so for ever. One that is not there is told by whoever needs it."""
        self._hung = None
        try:
            self._ping()
        except UserError as error:
            return str(error) if isinstance(error, Hangs) else ""
        return ""

    def _ping(self) -> Mapping[str, str]:
        """The headers with which the engine says that it is there; ``Hangs``, at once where it did so just now."""
        if self._hung and time.monotonic() - self._hung[0] < _REMEMBERED_SECONDS:
            raise self._hung[1]
        try:
            return self._ask_now("GET", _PING, self._alive_seconds)[2]
        except Hangs as error:
            self._hung = time.monotonic(), error
            raise

    @property
    def _alive_seconds(self) -> float:
        return _FAR_SECONDS if self.address.startswith("ssh://") else _ALIVE_SECONDS

    def _versioned(self, path: str) -> str:
        return f"/v{self.version()}{path}"

    def _ask_now(self, method: str, path: str, seconds: float) -> tuple[int, bytes, Mapping[str, str]]:
        if self.address.startswith(("unix://", "ssh://")):
            return self._answer(self._sent(method, path), seconds)
        return self._over_sdk(method, path, seconds)

    def _sent(self, method: str, path: str) -> HTTPConnection:
        """A connection on which this was asked."""
        import http.client
        import socket

        place = _through_ssh(self.address) if self.address.startswith("ssh://") else self.address
        patience = self._alive_seconds

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(patience)
                self.sock.connect(place.removeprefix("unix://"))
                self.sock.settimeout(_USUAL_SECONDS)

        connection = Connection("docker")
        try:
            connection.request(method, path)
        except TimeoutError:  # so many wait already that it takes no more
            connection.close()
            raise self._hanging(patience) from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise silent(self.address, error) from None
        return connection

    def _answer(self, connection: HTTPConnection, seconds: float) -> tuple[int, bytes, Mapping[str, str]]:
        """What comes back on a connection on which something was asked, waited for so long, or until the engine is
        silent altogether: status, body, and headers in lower case."""
        import http.client

        try:
            self._await(connection, seconds)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise silent(self.address, error) from None
        finally:
            connection.close()
        return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}

    def _await(self, connection: HTTPConnection, seconds: float) -> None:
        """Wait until something comes; ``UserError`` when nothing does."""
        import select

        poll = select.poll()  # `select` itself takes no file whose number is 1024 or more
        poll.register(connection.sock, select.POLLIN)
        until, pause = time.monotonic() + seconds, min(seconds, self._alive_seconds)
        while not poll.poll(pause * 1000):
            if pause == seconds:
                raise self._hanging(seconds)
            self._ping()
            if time.monotonic() > until:
                why = f"it did not finish in {seconds:.0f} s what it was asked for, but it answers other requests"
                raise UserError(f"the Docker engine at {self.address} is stuck: {why}", remedy=_RESTART)

    def _over_sdk(self, method: str, path: str, seconds: float) -> tuple[int, bytes, Mapping[str, str]]:
        import docker.errors
        import requests

        try:
            if self._client is None:
                self._client = sdk_client(self.address, OURS)
            answer = self._client.request(method, f"{self._client.base_url}{path}", timeout=seconds)
        except requests.Timeout:
            raise self._hanging(seconds) from None
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise silent(self.address, error) from None
        return answer.status_code, answer.content, {name.lower(): value for name, value in answer.headers.items()}

    def _hanging(self, seconds: float) -> Hangs:
        why = f"it accepts connections but did not answer in {seconds:.0f} s"
        return Hangs(f"the Docker engine at {self.address} hangs: {why}", remedy=_RESTART)

    def _refused(self, kind: type[UserError], what: str, body: bytes) -> UserError:
        reason = body.decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            reason = json.loads(body)["message"]
        old = "it is newer than this doit knows: use a newer version of these tasks"
        remedy = old if "is too old" in reason else ""
        return kind(f"the Docker engine refuses {what}: {reason.strip()}", remedy=remedy)


def silent(address: str, error: Exception) -> UserError:
    """That no engine answers at this address, or that this user may not ask it: by the error of whoever tried."""
    why, remedy = _system_reason(error), where_from(address)
    if address.startswith("ssh://"):
        why, remedy = _said_by_ssh(address) or why, f"see that `docker --host {address} version` works"
    elif isinstance(error, PermissionError):
        remedy = _may_use(address.removeprefix("unix://"))
        return UserError(f"you may not use the Docker engine at {address}: {why}", remedy=remedy)
    return UserError(f"no Docker engine answers at {address}: {why}", remedy=remedy)


def _system_reason(error: BaseException) -> str:
    """What the system said of the connection, without the objects of the libraries between."""
    why = str(error)
    below: BaseException | None = error
    while below:
        if isinstance(below, OSError) and below.strerror:
            why = below.strerror
        below = below.__cause__ or below.__context__
    return why


def _may_use(socket: str) -> str:
    """How one comes to be allowed to use the engine at this socket: its group may, unless that is root's."""
    import grp

    other = "set DOCKER_HOST to an engine that you may use"
    with contextlib.suppress(OSError, KeyError):
        status = os.stat(socket)  # noqa: PTH116
        if status.st_gid and status.st_mode & stat.S_IWGRP:
            group = grp.getgrgid(status.st_gid).gr_name
            return f"join its group: sudo usermod -aG {group} $USER, then log in again; or {other}"
    return other


def sdk_client(address: str, version: str) -> Any:
    """The SDK's client of the engine at ``address`` for this version of the API, with the TLS files of the environment
    or of the current Docker context. Raises ``docker.errors.TLSParameterError`` where one of them is missing."""
    from functools import partial

    from docker.tls import TLSConfig
    from docker.utils import kwargs_from_env

    import docker

    client: Any
    certificates = tls() if address == endpoint() else None
    if certificates is not None:
        client = docker.APIClient(base_url=address, tls=TLSConfig(**certificates), version=version)
    else:
        local = _through_ssh(address) if address.startswith("ssh://") else address
        client = docker.APIClient(**kwargs_from_env({**os.environ, "DOCKER_HOST": local}), version=version)
    # Left to itself, requests prefers the bundle in REQUESTS_CA_BUNDLE to the authority that it was given.
    client.request = partial(client.request, verify=client.verify)
    return client


def ssh_argv(address: str) -> list[str]:
    """The command whose input and output are a connection to the engine at ``address``, as the docker command runs it.

    >>> ssh_argv("ssh://me@far:2222")
    ['ssh', '-o', 'ConnectTimeout=30', '-T', '-l', 'me', '-p', '2222', '--', 'far', 'docker', 'system', 'dial-stdio']
    """
    url = urlsplit(address)
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    argv += ["-l", url.username] if url.username else []
    argv += ["-p", str(url.port)] if url.port else []
    host = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return [*argv, "--", url.hostname or "", "docker", *host, "system", "dial-stdio"]


@cache
def _through_ssh(address: str) -> str:
    """A Unix socket of this process whose connections lead through ssh to the engine at ``address``."""
    import atexit
    import shutil
    import socket
    import threading

    if shutil.which("ssh") is None:
        raise UserError(f"the engine is at {address}, and there is no ssh command", remedy="install openssh-client")
    cleaning = contextlib.ExitStack()
    folder = cleaning.enter_context(leftovers.folder("engine-"))
    atexit.register(cleaning.close)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "docker.sock"))
    server.listen(64)

    def serve() -> None:
        while True:
            client, _ = server.accept()
            with client, (folder / "stderr").open("wb") as stderr:
                end, argv = client.fileno(), ssh_argv(address)
                # As the docker command runs it: Ctrl-C must not cut what is in use, also by what cleans up.
                commands.begin(argv, stdin=end, stdout=end, stderr=stderr, cleanup=True)

    threading.Thread(target=serve, daemon=True).start()
    return f"unix://{folder}/docker.sock"


def _said_by_ssh(address: str) -> str:
    """The last line that ssh wrote for this address."""
    path = Path(_through_ssh(address).removeprefix("unix://")).with_name("stderr")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
