"""Real services on loopback for tests: a registry, a Redis, a TCP relay that can be slow or dead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import hosted
from tests.hosted import Ways
from tests.waiting import comes, patience


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Service:
    """A running process that listens on a port of 127.0.0.1."""

    port: int
    process: subprocess.Popen[bytes]
    behind: int = 0
    """The port of the registry behind the proxy that listens on the other."""
    data: Path = Path()
    """Where it keeps what it holds."""
    front: hosted.Hosted | None = None

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert comes(lambda: not listens(self.port))


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def running(argv: list[str], port: int, log: Path) -> Iterator[Service]:
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            if not comes(lambda: process.poll() is not None or listens(port)) or process.poll() is not None:
                raise RuntimeError(f"{argv[0]} does not start: {log.read_text()[-2000:]}")
            yield Service(port, process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(patience())


@contextlib.contextmanager
def registry(
    folder: Path,
    login: tuple[str, str] | None = None,
    port: int = 0,
    ways: Ways = Ways(),  # noqa: B008  a constant
) -> Iterator[Service]:
    """A registry with its storage in ``folder``, as somebody hosts it: in pages, unless ``ways`` say otherwise. It
    listens for as long as its process lives."""
    with bare_registry(folder, login) as service:
        front = hosted.Hosted(service.port, folder / "data", ways)
        with hosted.serving(front, port) as proxy:

            def ends_with_it() -> None:
                service.process.wait()
                proxy.shutdown()
                proxy.server_close()

            threading.Thread(target=ends_with_it, daemon=True).start()
            yield Service(proxy.server_port, service.process, service.port, folder / "data", front)


@contextlib.contextmanager
def bare_registry(
    folder: Path, login: tuple[str, str] | None = None, port: int = 0, tls: tuple[Path, Path] | None = None
) -> Iterator[Service]:
    """Debian's docker-registry with its storage in ``folder``, with HTTP basic authentication if there is a login, and
    with TLS if there are a certificate and its key."""
    if shutil.which("docker-registry") is None:
        pytest.skip("there is no docker-registry: apt-get install docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}"}
    if tls:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    if login:
        # The C library knows bcrypt, and perl, which every Debian has, asks it.
        ask = ["perl", "-e", "print crypt($ARGV[0], '$2b$05$' . 'abcdefghijklmnopqrstuu')", login[1]]
        made = subprocess.run(ask, capture_output=True, text=True, check=True)
        (folder / "htpasswd").write_text(f"{login[0]}:{made.stdout}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    file = folder / "config.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with running(["docker-registry", "serve", str(file)], port, folder / "log") as service:
        yield replace(service, behind=port, data=folder / "data")


@contextlib.contextmanager
def redis(folder: Path, password: str = "", port: int = 0, more: Sequence[str] = ()) -> Iterator[Service]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: apt-get install redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    argv += ["--dir", str(folder), *more]
    if password:
        argv += ["--requirepass", password]
    with running(argv, port, folder / "log") as service:
        yield service


def redis_reader(service: Service, rights: str = "") -> str:
    """Let a Redis have an account that may only read, by default as that of docker-compose.cache.yml; gives its URL."""
    from redis import Redis

    entrypoint = (Path(__file__).parent.parent / "docker/redis/entrypoint.sh").read_text()
    team = " ".join(re.findall(r"^made=[\"'](?:\$made )?(.*)[\"']$", entrypoint, re.MULTILINE))
    with Redis(port=service.port) as client:
        client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">HUSH", *(rights or team).split())
    return f"redis://reader:HUSH@127.0.0.1:{service.port}/0"


@contextlib.contextmanager
def sentinel(folder: Path, port: int) -> Iterator[Service]:
    """A Sentinel that watches over the Redis on this port, as ``swarm``."""
    folder.mkdir(parents=True, exist_ok=True)
    own, file = free_port(), folder / "sentinel.conf"
    file.write_text(f"port {own}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor swarm 127.0.0.1 {port} 1\n")
    with running(["redis-server", str(file), "--sentinel"], own, folder / "log") as service:
        yield service


def tags(service: Service, repository: str) -> list[str]:
    """What the registry lists for a repository, on all pages."""
    found: list[str] = []
    place = f"/v2/{repository}/tags/list"
    while place:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{place}") as answer:
                found += json.load(answer)["tags"] or []
                place = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
        except urllib.error.HTTPError:
            return []
    return found


@contextlib.contextmanager
def paging(server: Service, size: int) -> Iterator[str]:
    """The address of a proxy before a registry, which lists so much of anything on a page."""
    with hosted.serving(hosted.Hosted(server.behind, server.data, Ways(page=size))) as proxy:
        yield f"localhost:{proxy.server_port}"


class Relay:
    """Listens on a port and passes bytes to another, or keeps silent: a registry that is slow or hangs. What would be
    more than ``most`` bytes of one connection in one direction waits."""

    def __init__(self, target: int) -> None:
        self.silent = False
        self.most = float("inf")
        self.accepted = 0
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.accepted += 1
            if self.silent:
                threading.Timer(60, client.close).start()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink, lambda: self.most), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, most: Callable[[], float] = lambda: float("inf")) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            passed += len(data)
            while passed > most():
                time.sleep(0.05)
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def grpc_of_engine(folder: Path, engine_socket: str) -> contextlib.AbstractContextManager[str]:
    """The BuildKit inside an engine as a buildkitd of its own, for a ``remote`` builder: a Unix socket whose
    connections are the engine's ``/grpc``, upgraded. Gives the endpoint."""
    return _grpc(folder / "buildkit.sock", engine_socket)


@contextlib.contextmanager
def _grpc(path: Path, engine_socket: str) -> Iterator[str]:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(64)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(engine_socket)
            engine.sendall(b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += engine.recv(1)
            for source, sink in ((client, engine), (engine, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"unix://{path}"
    finally:
        server.close()
        path.unlink(missing_ok=True)


def running_as_root() -> bool:
    return os.geteuid() == 0
