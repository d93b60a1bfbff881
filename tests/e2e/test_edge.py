"""Through the door of the stack, as the internet comes: TLS, limits, and who is believed about whom.

EDGE_URL says where it is; `COMPOSE_PROFILES=edge doit ci_test` starts it and sets that.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import LIMIT_SECONDS, Person, Stack, container, docker
from tests.waiting import patience, until

pytestmark = pytest.mark.stack

ROOT_CERTIFICATE = "/data/caddy/pki/authorities/local/root.crt"


@pytest.fixture(scope="module")
def port() -> int:
    if not os.environ.get("EDGE_URL"):
        pytest.skip("EDGE_URL is not set: the stack has no edge (COMPOSE_PROFILES=edge doit ci_test starts one)")
    return int(urlsplit(os.environ["EDGE_URL"]).port or 443)


@pytest.fixture(scope="module")
def trusting(port: int) -> ssl.SSLContext:
    """Trusts the edge's own authority, and nobody else."""
    context = ssl.create_default_context(cadata=docker("exec", container("edge"), "cat", ROOT_CERTIFICATE))
    context.set_alpn_protocols(["http/1.1"])
    return context


@pytest.fixture(scope="module")
def edge(port: int, trusting: ssl.SSLContext) -> Iterator[httpx.Client]:
    url = f"https://localhost:{port}"
    with httpx.Client(base_url=url, verify=trusting, timeout=patience(LIMIT_SECONDS), trust_env=False) as client:
        yield client


def test_all_that_people_use_and_nothing_else(edge: httpx.Client, stack: Stack, alice: Person) -> None:
    assert edge.get("/health").json()["status"] == "ok"
    made = edge.post("/api-keys", json={"password": alice.password, "name": "edge"}, headers=alice.token)
    assert made.status_code == 201, made.text
    assert "Strict-Transport-Security" not in made.headers, "it would count for every port of localhost"
    key = {"X-API-Key": made.json()["key"]}
    assert edge.post("/memories", json={"text": "The bicycle is red."}, headers=key).status_code == 201
    assert edge.post("/search", json={"query": "a bicycle"}, headers=key).json()["results"]
    assert edge.post("/tasks", json={"prompt": "What is red?"}, headers=key).status_code == 201
    assert "echo" in [one["id"] for one in edge.get("/v1/models", headers=key).json()["data"]]
    assert edge.get("/jwks").json()["keys"]
    for path in ("/metrics", "/exchange", "/docs", "/openapi.json", "/"):
        assert edge.get(path, headers={"Authorization": "Bearer e2e-metrics"}).status_code == 404, path


def test_who_does_not_know_the_authority_is_warned(edge: httpx.Client, port: int) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{port}/health", trust_env=False)


def test_an_answer_streams_and_a_client_that_leaves_ends_it(edge: httpx.Client, stack: Stack, alice: Person) -> None:
    body = {"prompt": "Tell me slowly.", "model": "slow", "stream": True}
    with edge.stream("POST", "/tasks", json=body, headers=alice.token) as answer:
        assert answer.status_code == 200, answer.read()
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        task = json.loads(next(lines))["id"]
        assert json.loads(next(lines))["text"]
        assert state(stack, alice, task) == "running", "a word came before the last one was said"
    until(lambda: state(stack, alice, task) == "cancelled", "the task is cancelled")
    chat = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "Which colour?"}]}
    with edge.stream("POST", "/v1/chat/completions", json=chat, headers=alice.token) as answer:
        assert answer.read().endswith(b"data: [DONE]\n\n")


def state(stack: Stack, who: Person, task: str) -> Any:
    return stack.orchestrator.get(f"/tasks/{task}", headers=who.token).json()["state"]


ELSEWHERE = """
import http.client, socket, ssl, sys
connection = http.client.HTTPConnection("localhost")
plain = socket.create_connection(("edge.swarm.internal", 443))
connection.sock = ssl._create_unverified_context().wrap_socket(plain, server_hostname="localhost")
connection.request("POST", "/token", sys.argv[1], {"Content-Type": "application/x-www-form-urlencoded"})
print(connection.getresponse().status)
"""


def test_who_is_asking_is_not_what_a_client_says(edge: httpx.Client, stack: Stack, alice: Person) -> None:
    """Logins are limited by address: no header makes a new one of it, at the edge or at the service; and whoever comes
    from elsewhere is not held to it."""
    wrong = {"username": alice.username, "password": "not this one"}

    def refusals(client: httpx.Client) -> list[int]:
        forged = ({"X-Forwarded-For": f"203.0.113.{number}", "Forwarded": "for=1.2.3.4"} for number in range(11))
        return [client.post("/token", data=wrong, headers=headers).status_code for headers in forged]

    assert refusals(edge)[-1] == 429
    assert refusals(stack.auth)[-1] == 429
    form = f"username={alice.username}&password=wrong"
    assert docker("exec", container("model"), "python", "-c", ELSEWHERE, form) == "401"


def ends(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, within the time that the socket allows."""
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_half_sent_heads_are_closed_in_time(edge: httpx.Client, port: int, trusting: ssl.SSLContext) -> None:
    address, limit = ("127.0.0.1", port), patience(LIMIT_SECONDS)
    with ExitStack() as stack:
        plain = [stack.enter_context(socket.create_connection(address, limit)) for _ in range(60)]
        half = [stack.enter_context(trusting.wrap_socket(one, server_hostname="localhost")) for one in plain[:50]]
        for one in half:
            one.sendall(b"POST /token HTTP/1.1\r\nHost: localhost\r\nX: ")
        assert edge.get("/health").status_code == 200
        assert all(ends(one) for one in [*half, *plain[50:]])


def test_heads_and_bodies_without_end_are_cut(
    edge: httpx.Client, stack: Stack, port: int, trusting: ssl.SSLContext, alice: Person
) -> None:
    sent = 0
    block = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 950) for number in range(64))
    with (
        socket.create_connection(("127.0.0.1", port), patience(LIMIT_SECONDS)) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            while sent < 97_000_000:
                connection.sendall(block)
                sent += len(block)
        except OSError:
            pass  # whichever way the system says that nobody listens
    # What the sockets and the engine's proxy between the two hold is sent, though nobody takes it.
    assert sent < 60_000_000
    for size in (2_000_000, 20_000_000):
        answer = edge.post("/memories", content=b"x" * size, headers=alice.token)
        assert answer.status_code == 413, answer.text
    assert edge.get("/health").status_code == 200
