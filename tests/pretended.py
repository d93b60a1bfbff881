"""An engine and a docker command that only pretend: whole runs of doit where there is no Docker.

The engine is a Unix socket that answers as the engine's API does, of images that exist by name alone. The command
``docker`` and its plugin ``docker-buildx`` are this file, run as a program: ``build`` says what BuildKit once said and
tells the engine of a new image, ``compose config`` reads the Compose file as it stands.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import itertools
import json
import os
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
_PLACE = "PRETENDED_ENGINE"
_ROOT = Path(__file__).resolve().parent


class PretendedEngine:
    """What the engine holds, and answers; ``asked`` is each request so far."""

    def __init__(self, folder: Path) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.cache: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.place = folder / "engine.sock"
        self._lock = threading.Lock()
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return "here"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with engine._lock:
                    engine.asked.append(f"{self.command} {self.path}")
                    status, answer = engine._answer(self.command, self.path, body)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Api-Version", "1.45")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = True

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815  as the base class calls them

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(self.place), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def hold(self, made: dict[str, Any]) -> None:
        """A new image: its id, names, labels and layers."""
        image = self.images.setdefault(made["id"], {**made, "tags": [], "tagged": ""})
        for tag in made["tags"]:
            self._name(image, tag)

    def tags(self) -> list[str]:
        """All names that images have."""
        return sorted(tag for image in self.images.values() for tag in image["tags"])

    def _stack(self, do: str, services: dict[str, dict[str, Any]]) -> None:
        """Compose creates, starts or removes the containers of these services (for "all": of every one); one called
        ``sick`` never gets well."""
        if do == "all":
            self.services.clear()
        for name, service in services.items():
            image = self._find(service["image"])
            if do == "create" and image:
                self.services[name] = {"image": service["image"], "id": image["id"], "state": "created", "health": ""}
            elif do == "start" and name in self.services:
                self.services[name] |= {"state": "running", "health": "unhealthy" if name == "sick" else "healthy"}
            elif do == "down":
                self.services.pop(name, None)

    def _name(self, image: dict[str, Any], tag: str) -> None:
        for other in self.images.values():
            other["tags"] = [one for one in other["tags"] if one != tag]
        image["tags"].append(tag)
        image["tagged"] = f"2026-11-25T10:00:00.{len(self.asked):09d}Z"

    def _find(self, ref: str) -> dict[str, Any] | None:
        if ref in self.images:
            return self.images[ref]
        return next((image for image in self.images.values() if _familiar(ref) in image["tags"]), None)

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        url = urlsplit(re.sub(r"^/v\d+\.\d+", "", path))
        words = {key: value[0] for key, value in parse_qs(url.query).items()}
        if url.path == "/made":
            self.hold(json.loads(body))
            return 200, {}
        if url.path == "/stack":
            self._stack(**json.loads(body))
            return 200, {}
        fixed = {
            "/_ping": "OK",
            "/version": {"Os": "linux", "Arch": ARCHITECTURE, "Version": "26.1.5", "ApiVersion": "1.45"},
            "/info": {
                "DriverStatus": [["Backing Filesystem", "extfs"]],
                "Driver": "overlay2",
                "NCPU": 2,
                "MemTotal": 1,
            },
            "/images/json": [_listed(image) for image in self.images.values()],
            "/containers/json": _with_labels([_container(name, one) for name, one in self.services.items()], words),
            "/networks": [{"Name": "shop_default"}] if self.services else [],
            "/volumes": {"Volumes": []},
            "/events": "",
            "/system/df": {"BuildCache": self.cache, "LayersSize": 1000},
            "/build/prune": {},
        }
        if url.path in fixed:
            return 200, fixed[url.path]
        if url.path.startswith("/containers/"):
            name = url.path.split("/")[2].removeprefix("id-")
            written = f"{name} says hello"
            return 200, written if url.path.endswith("/logs") else _container(name, self.services[name])
        found = re.fullmatch(r"/images/(.+?)(/json|/history|/tag)?", unquote(url.path))
        image = self._find(found[1]) if found else None
        if found is None or image is None:
            return 404, {"message": f"No such image: {url.path}"}
        return 200, self._about(method, image, found, words)

    def _about(self, method: str, image: dict[str, Any], found: re.Match[str], words: dict[str, str]) -> Any:
        if found[2] == "/tag":
            return self._name(image, _familiar(f"{words['repo']}:{words['tag']}"))
        if found[2] == "/history":
            return [{"CreatedBy": "COPY", "Size": 100} for _ in image["layers"]]
        if method == "DELETE":
            image["tags"] = [tag for tag in image["tags"] if tag != _familiar(found[1])]
            if not image["tags"]:
                del self.images[image["id"]]
            return []
        return {
            "Id": image["id"],
            "RootFS": {"Layers": image["layers"]},
            "Config": {"Labels": image["labels"], "Env": ["A=b"]},
            "Os": "linux",
            "Architecture": ARCHITECTURE,
            "Metadata": {"LastTagTime": image["tagged"]},
        }


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[tuple[PretendedEngine, dict[str, str]]]:
    """A pretended engine, and the environment in which only it and its docker command are found."""
    one = PretendedEngine(folder)
    (folder / "bin").mkdir()
    (folder / "config" / "cli-plugins").mkdir(parents=True)
    program = f"#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "
    for path, words in (("bin/docker", ""), ("config/cli-plugins/docker-buildx", "buildx ")):
        (folder / path).write_text(f'{program}{words}"$@"\n')
        (folder / path).chmod(0o755)
    environ = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "DOCKER_HOST": f"unix://{one.place}",
        "DOCKER_CONFIG": str(folder / "config"),
        _PLACE: str(one.place),
    }
    try:
        yield one, environ
    finally:
        one.close()


def _familiar(ref: str) -> str:
    """A reference as the engine lists it."""
    ref = ref.removeprefix("docker.io/library/").removeprefix("docker.io/")
    return ref if ":" in ref.rpartition("/")[2] or "@" in ref else f"{ref}:latest"


def _listed(image: dict[str, Any]) -> dict[str, Any]:
    size = 100 * len(image["layers"])
    return {
        "Id": image["id"],
        "RepoTags": image["tags"],
        "RepoDigests": [],
        "Labels": image["labels"],
        "Size": size,
        "Created": 1_790_000_000,
    }


def _with_labels(containers: list[dict[str, Any]], words: dict[str, str]) -> list[dict[str, Any]]:
    """Those that have every label of the filter: each is a label, or a label and its value."""
    wanted = [label.partition("=") for label in json.loads(words.get("filters", "{}")).get("label", ())]
    return [
        container
        for container in containers
        if all(
            key in container["Labels"] and (not eq or container["Labels"][key] == value) for key, eq, value in wanted
        )
    ]


def _container(name: str, one: dict[str, Any]) -> dict[str, Any]:
    """A container, both as it is listed and as it is inspected."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": name}
    log = [{"Output": f"{name} is {one['health']}"}]
    return {
        "Id": f"id-{name}",
        "Names": [f"/shop-{name}-1"],
        "Name": f"/shop-{name}-1",
        "Image": one["id"],
        "ImageID": one["id"],
        "Labels": labels,
        "Config": {"Labels": labels, "Image": one["image"], "Tty": True},
        "State": {"Status": one["state"], "Health": {"Status": one["health"] or "none", "Log": log}},
        "NetworkSettings": {
            "Networks": {"shop_default": {}},
            "Ports": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
        },
    }


# ---- the docker command


def main(words: list[str]) -> int:
    """Do what this docker command asks for; its exit status."""
    if words[:2] == ["buildx", "build"]:
        return _build(words[2:])
    if words[:2] in (["buildx", "version"], ["compose", "version"]):
        print("github.com/docker/buildx v0.13.1 pretended")
    elif words[0] == "compose":
        return _compose(words)
    elif words[0] == "pull":
        _tell({"id": _digest(words[-1]), "tags": [_familiar(words[-1])], "labels": {}, "layers": [_digest(words[-1])]})
    elif words[0] not in ("version", "info"):
        print(f"docker {' '.join(words)}: not pretended", file=sys.stderr)
        return 1
    return 0


def _build(words: list[str]) -> int:
    options: dict[str, list[str]] = {}
    for option, value in itertools.pairwise(words):
        options.setdefault(option, []).append(value)
    if "--label" not in options:  # only for the cache
        return 0
    file = Path(options["--file"][0])
    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    broken = "RUN false" in text
    said = (_ROOT / "buildkit" / ("fail.rawjson" if broken else "cold.rawjson")).read_bytes()
    sys.stderr.buffer.write(said)
    if broken:
        return 1
    context = Path(words[-1]).resolve()  # a link in .doit-images
    hook = context / "during-build"
    if hook.exists():  # names a file that somebody edits meanwhile
        (context / hook.read_text().strip()).write_text(f"edited at {time.time_ns()}")
        hook.unlink()
    files = [
        path.read_bytes() for path in sorted(context.rglob("*")) if path.is_file() and ".doit-images" not in path.parts
    ]
    labels = dict(label.split("=", 1) for label in options.get("--label", ()))
    layer = _digest(text, *map(str, files))
    image = _digest(layer, json.dumps(labels, sort_keys=True))
    _tell({"id": image, "tags": options.get("--tag", []), "labels": labels, "layers": [layer]})
    Path(options["--iidfile"][0]).write_text(image)
    return 0


def _compose(words: list[str]) -> int:
    if "--file" not in words and "down" in words:  # by the name of the project alone
        _post("/stack", {"do": "all", "services": {}})
        return 0
    config = _config(Path(words[words.index("--file") + 1]))
    done = {"up": "create", "start": "start", "down": "down"}
    named = [word for word in words if word in config["services"]]
    chosen = {name: one for name, one in config["services"].items() if name in (named or config["services"])}
    if "config" in words:
        print(json.dumps(config))
    elif "logs" in words:
        print("\n".join(f"{name}-1  | {name} says hello" for name in chosen))
    for word in set(words) & done.keys():
        running = {name: {"image": one["image"]} for name, one in chosen.items() if one.get("scale") != 0}
        _post("/stack", {"do": done[word], "services": running})
    return 0


def _config(file: Path) -> dict[str, Any]:
    """What Compose makes of a plain file: folders become absolute, every service has an image, defaults stand there."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content.setdefault("name", file.parent.name)
    for service in content["services"].values():
        build = service.get("build")
        if build is not None:
            build = {"context": build} if isinstance(build, str) else build
            folder = str((file.parent / build["context"]).resolve())
            service["build"] = {"dockerfile": "Dockerfile", **build, "context": folder}
    return content


def _tell(made: dict[str, Any]) -> None:
    _post("/made", made)


def _post(path: str, content: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.environ[_PLACE])
    connection.request("POST", path, json.dumps(content))
    connection.getresponse().read()
    connection.close()


def _digest(*parts: str) -> str:
    return f"sha256:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
