"""The services next door, as small HTTP servers of their own: what a service's tests need of the others.

That the real ones answer the same is shown by tests/e2e, with all of them running.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

type Answer = tuple[int, Any]


def user_of(token: str) -> str:
    """The id of the user whose token is ``token``: the same one each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, token))


class Neighbour:
    """Answers every request with what ``answer(method, path, headers, body)`` says, and remembers it."""

    def __init__(self, answer: Callable[[str, str, dict[str, str], Any], Answer]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[Neighbour]:
        neighbour = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                headers = {name.lower(): value for name, value in self.headers.items()}
                neighbour.requests.append((self.command, self.path, headers, body))
                status, answer = neighbour.answer(self.command, self.path, headers, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def verify(_: str, path: str, headers: dict[str, str], __: Any) -> Answer:
    """auth: knows every bearer token that begins with ``good``; ``broken`` makes it fail."""
    assert path == "/verify"
    token = headers.get("authorization", "").removeprefix("Bearer ")
    if token == "broken":
        return 500, {}
    if not token.startswith("good"):
        return 401, {"detail": "The access token has expired."}
    return 200, {"user_id": user_of(token), "username": token, "method": "token", "credential_id": "x"}
