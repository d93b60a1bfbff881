"""The services next door, as small HTTP servers of their own: what a service's tests need of the others.

That the real ones answer the same is shown by tests/e2e, with all of them running.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

type Answer = tuple[int, Any]

KEY = ec.generate_private_key(ec.SECP256R1())
KID = "the key of these tests"
SCOPES = "memory:read memory:write tasks"


def user_of(name: str) -> str:
    """The id of the user called ``name``: the same one each time."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def token_of(name: str, /, **changes: Any) -> str:
    """An access token as ``auth`` makes them; ``changes`` are claims that are to be others."""
    claims = {
        "iss": "vllm-swarm/auth", "aud": ["auth", "memory", "orchestrator"], "sub": user_of(name), "name": name,
        "jti": f"{name}'s credential", "scope": SCOPES, "iat": time.time(), "exp": int(time.time()) + 600, **changes,
    }  # fmt: skip
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"kid": KID})


def bearer(name: str, /, **changes: Any) -> dict[str, str]:
    """The header of a request that ``name`` sends."""
    return {"Authorization": f"Bearer {token_of(name, **changes)}"}


def sent_by(headers: dict[str, str]) -> dict[str, Any]:
    """The claims of the token that a neighbour was sent."""
    token = headers["authorization"].removeprefix("Bearer ")
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


class _Server(ThreadingHTTPServer):
    """As many may wait as a test asks at once: with Python's five, some are not heard for seconds."""

    daemon_threads = True
    request_queue_size = 128


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
                self.send_header("Cache-Control", "public, max-age=300")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        server = _Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def auth(_: str, path: str, headers: dict[str, str], body: Any) -> Answer:
    """auth: shows its public key, and exchanges tokens, and API keys that begin with ``vls_good``."""
    if path == "/jwks":
        public = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        return 200, {"keys": [{**public, "use": "sig", "alg": "ES256", "kid": KID}]}
    assert path == "/exchange"
    key = headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer ")
    if key.startswith("vls_"):
        if not key.startswith("vls_good"):
            return 401, {"detail": "The API key is unknown, expired or revoked."}
        return 200, {"access_token": token_of(key, aud=[body["audience"]], jti=key)}
    claims = sent_by(headers)
    return 200, {"access_token": token_of(claims["name"], **{**claims, "aud": [body["audience"]]})}
