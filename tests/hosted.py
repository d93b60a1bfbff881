"""Registries as somebody hosts them: a proxy before a real one on loopback, which answers in their ways."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from tests.waiting import comes

_PLACE = re.compile(r"/v2/(?P<repository>.+)/(?P<what>manifests|blobs|tags|referrers)/(?P<name>.+)")
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Ways:
    """How a hosted registry differs from Debian's ``docker-registry``, which has all on one page, knows no referrers
    and deletes. ``made``: the repositories that there are, where a push makes none. ``immutable`` and ``missing`` are
    what it answers: a status, a code, and a message about ``{repository}`` and ``{tag}``."""

    page: int = 2
    referrers: bool = True
    says_so: bool = False
    """It says of what is pushed that it is listed among the referrers, and lists none, as ECR once did."""
    deletes: bool = True
    tokens: bool = False
    made: frozenset[str] | None = None
    missing: tuple[int, str, str] = (404, "NAME_UNKNOWN", "repository name not known to registry")
    immutable: tuple[int, str, str] | None = None


# The words are theirs: github.com/actions/starter-workflows/issues/2647, github.com/osscontainertools/kaniko/pull/204,
# goharbor/harbor's ErrImmutable, and GoogleCloudPlatform/developer-journey-app/issues/117 and its own troubleshooting.
_ECR_MISSING = "The repository with name '{repository}' does not exist in the registry with id '123456789012'"
_ECR_IMMUTABLE = (
    "The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten because the tag "
    "is immutable."
)
_HARBOR_IMMUTABLE = "Failed to process request due to '{repository}:{tag}' configured as immutable."
_GOOGLE_IMMUTABLE = "cannot update tag {tag}. The repository has enabled tag immutability"
_MINE = frozenset({"team/app/one"})
KINDS = {
    "GHCR": Ways(referrers=False, deletes=False, tokens=True),
    "ECR": Ways(
        made=_MINE, missing=(404, "NAME_UNKNOWN", _ECR_MISSING), immutable=(400, "TAG_INVALID", _ECR_IMMUTABLE)
    ),
    "Artifact Registry": Ways(
        made=_MINE,
        missing=(404, "NAME_UNKNOWN", 'Repository "{repository}" not found'),
        immutable=(400, "MANIFEST_INVALID", _GOOGLE_IMMUTABLE),
    ),
    "Harbor": Ways(tokens=True, immutable=(412, "PRECONDITION", _HARBOR_IMMUTABLE)),
    "Docker Hub": Ways(referrers=False, deletes=False, tokens=True),
    "Zot": Ways(),
    "GitLab": Ways(referrers=False, tokens=True),
}
"""By what they are called in docs/registries.md."""


@dataclass
class Answered:
    """An answer on its way to whoever asked."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def refusal(status: int, code: str, message: str) -> Answered:
    """A refusal as the specification of distribution has it."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answered(status, {"Content-Type": "application/json"}, body)


class Hosted:
    """The proxy. ``data`` is the folder that the real registry at ``backend`` (a port) keeps everything in."""

    def __init__(self, backend: int, data: Path, ways: Ways) -> None:
        self.ways = ways
        self.seen: list[tuple[str, str]] = []
        self._backend, self._root = backend, data / "docker/registry/v2"
        self._subjects: dict[str, tuple[str, dict[str, Any]]] = {}

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answered:
        """What is answered to a request; ``OSError`` where the registry behind it is gone."""
        self.seen.append((method, path))
        place, _, query = path.partition("?")
        if place == "/token":
            return self._token(query)
        found = _PLACE.fullmatch(place)
        if refused := self._refused(method, found, headers):
            return refused
        if not found:
            return self._asked(method, path, headers, body)
        if found["what"] == "referrers" and self.ways.referrers:
            return self._referrers(found, place, query, headers)
        if found["what"] == "referrers":
            return refusal(404, "UNSUPPORTED", "the operation is unsupported")
        if found["what"] == "tags":
            return self._tags(place, query, headers)
        answer = self._asked(method, path, headers, body)
        if (
            method == "PUT"
            and found["what"] == "manifests"
            and answer.status == 201
            and (self.ways.referrers or self.ways.says_so)
        ):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                answer.headers["OCI-Subject"] = json.loads(body)["subject"]["digest"]
        return answer

    def _asked(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answered:
        one = http.client.HTTPConnection("127.0.0.1", self._backend)
        with contextlib.closing(one):
            kept = {name: value for name, value in headers.items() if name.lower() not in _OWN}
            one.request(method, path, body if body or method in ("POST", "PUT", "PATCH") else None, kept)
            answer = one.getresponse()
            return Answered(answer.status, dict(answer.getheaders()), answer.read())

    def _refused(self, method: str, found: re.Match[str] | None, headers: dict[str, str]) -> Answered | None:
        """Why a request is refused, if it is."""
        repository = found["repository"] if found else ""
        if self.ways.tokens and not self._lets_in(method, repository, headers.get("Authorization", "")):
            scope = (
                f',scope="repository:{repository}:{"pull" if method in _READS else "pull,push"}"' if repository else ""
            )
            refused = refusal(401, "UNAUTHORIZED", "authentication required")
            refused.headers["WWW-Authenticate"] = f'Bearer realm="http://{headers["Host"]}/token",service="x"{scope}'
            return refused
        if repository and self.ways.made is not None and repository not in self.ways.made:
            status, code, message = self.ways.missing
            return refusal(status, code, message.format(repository=repository))
        if not found or found["what"] != "manifests":
            return None
        if method == "DELETE" and not self.ways.deletes:
            return refusal(405, "UNSUPPORTED", "The operation is unsupported.")
        tagged = method == "PUT" and self.ways.immutable and ":" not in found["name"]
        if tagged and self._asked("HEAD", found[0], {"Accept": headers.get("Content-Type", "")}).status == 200:
            status, code, message = self.ways.immutable or (0, "", "")
            return refusal(status, code, message.format(repository=repository, tag=found["name"]))
        return None

    @staticmethod
    def _token(query: str) -> Answered:
        scopes = [value for name, value in parse_qsl(query) if name == "scope"]
        token = base64.urlsafe_b64encode(json.dumps(scopes).encode()).decode()
        return Answered(200, {}, json.dumps({"token": token, "expires_in": 300}).encode())

    @staticmethod
    def _lets_in(method: str, repository: str, authorization: str) -> bool:
        if not authorization.startswith("Bearer "):
            return False
        if not repository:
            return True
        scopes = json.loads(base64.urlsafe_b64decode(authorization.removeprefix("Bearer ")))
        granted = {scope.split(":")[1]: scope.split(":")[2].split(",") for scope in scopes}
        return ("pull" if method in _READS else "push") in granted.get(repository, ())

    def _tags(self, place: str, query: str, headers: dict[str, str]) -> Answered:
        answer = self._asked("GET", place, headers)
        if answer.status == 200:
            listed = json.loads(answer.body)
            [last] = parse_qs(query).get("last", [""])
            left = [tag for tag in sorted(listed["tags"] or ()) if tag > last]
            answer.body = json.dumps({**listed, "tags": left[: self.ways.page]}).encode()
            if left[self.ways.page :]:
                more = urlencode({"last": left[self.ways.page - 1], "n": self.ways.page})
                answer.headers["Link"] = f'<{place}?{more}>; rel="next"'
        return answer

    def _referrers(self, found: re.Match[str], place: str, query: str, headers: dict[str, str]) -> Answered:
        """What is attached, page by page, read from where the registry keeps it."""
        allowed = self._asked("GET", f"/v2/{found['repository']}/tags/list", headers)
        if allowed.status == 401:
            return allowed
        asked = dict(parse_qsl(query))
        kind, start = asked.get("artifactType", ""), int(asked.get("start", 0))
        attached = [
            entry
            for subject, entry in self._all(found["repository"])
            if subject == found["name"] and kind in ("", entry["artifactType"])
        ]
        end = start + self.ways.page
        listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": attached[start:end]}
        answer = Answered(200, {"Content-Type": INDEX}, json.dumps(listed).encode())
        if kind:
            answer.headers["OCI-Filters-Applied"] = "artifactType"
        if attached[end:]:
            answer.headers["Link"] = f'<{place}?{urlencode({**asked, "start": end})}>; rel="next"'
        return answer

    def _all(self, repository: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What all manifests of a repository are attached to, each with its descriptor, as they came."""
        links = self._root.glob(f"repositories/{repository}/_manifests/revisions/sha256/*/link")
        for link in sorted(links, key=lambda link: (link.stat().st_mtime_ns, link)):
            name = link.parent.name
            if name not in self._subjects:
                text = (self._root / "blobs/sha256" / name[:2] / name / "data").read_bytes()
                self._subjects[name] = _descriptor(name, text)
            yield self._subjects[name]


_OWN = ("connection", "transfer-encoding", "content-length", "expect", "date", "server")
_READS = ("GET", "HEAD")
_HELLO = b"\x16"  # so TLS begins: engines try that first, and go by an answer in HTTP


def _descriptor(name: str, text: bytes) -> tuple[str, dict[str, Any]]:
    try:
        manifest = json.loads(text)
        subject = manifest["subject"]["digest"]
    except (ValueError, KeyError, TypeError):
        return "", {}
    kind = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType", "")
    entry = {
        "mediaType": manifest.get("mediaType"),
        "digest": f"sha256:{name}",
        "size": len(text),
        "artifactType": kind,
    }
    return subject, entry | {"annotations": manifest.get("annotations") or {}}


@contextlib.contextmanager
def serving(hosted: Hosted, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """The proxy, listening."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                if self.request.recv(1, socket.MSG_PEEK) == _HELLO:
                    self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                else:
                    super().handle()

        def do_GET(self) -> None:
            # An engine sends a header for each kind of manifest that it takes.
            headers = {name: ", ".join(self.headers.get_all(name, ())) for name in self.headers}
            try:
                answer = hosted.answer(self.command, self.path, headers, self._body())
            except (OSError, http.client.HTTPException):  # it was killed
                self.close_connection = True
                return
            self.send_response(answer.status)
            length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(answer.body))
            own = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
            for name, value in {**own, "Content-Length": length}.items():
                self.send_header(name, value)
            with contextlib.suppress(OSError):
                self.end_headers()
                self.wfile.write(answer.body if self.command != "HEAD" else b"")

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  as http.server calls them

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    made: list[ThreadingHTTPServer] = []

    def binds() -> bool:
        with contextlib.suppress(OSError):  # one that was killed listens for another moment
            made.append(ThreadingHTTPServer(("127.0.0.1", port), Handler))
        return bool(made)

    assert comes(binds)
    [server] = made
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
