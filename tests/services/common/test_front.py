"""What a client may cost before anything is known of it: a process of uvicorn, and clients that do not behave."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from common import proxies, service

SERVICES = Path(service.__file__).parents[1]
APP = """
import sys

import uvicorn
from fastapi import Request

from common import front, service
from common.callers import OPEN
from common.identity import presented
from common.settings import ServiceSettings

front.CLIENT_SECONDS = float(sys.argv[1])
front.CONNECTIONS = int(sys.argv[2])
settings = ServiceSettings(trusted_proxies=sys.argv[3], request_seconds=6000)
async def identify(request):
    return presented(request)

app = service.create("thing", settings, resources=[], checks={}, identify=identify)

@app.post("/length", dependencies=[OPEN])
@app.post("/known")
async def length(request: Request):
    return len(await request.body())

@app.get("/address", dependencies=[OPEN])
async def address(request: Request):
    return request.client.host

uvicorn.run(app, host="127.0.0.1", port=0, http=front.Guarded, proxy_headers=False, log_config=None)
"""


class Server:
    """The app in a process of its own, where a connection may be silent for ``seconds``."""

    def __init__(self, seconds: float, connections: int, trusted: str = "") -> None:
        argv = [sys.executable, "-c", APP, str(seconds), str(connections), trusted]
        self.process = subprocess.Popen(
            argv, cwd=SERVICES, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.port = next(
            int(found[1]) for line in self.process.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)", line))
        )
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(sent)
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            client.request(method, path, body, headers)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def memory(self) -> int:
        """What the process has in memory, in kB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def serving(seconds: float, connections: int, trusted: str = "") -> Iterator[Server]:
    server = Server(seconds, connections, trusted)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def patient() -> Iterator[Server]:
    yield from serving(seconds=6000, connections=20)


@pytest.fixture(scope="module")
def quick() -> Iterator[Server]:
    yield from serving(seconds=1, connections=200)


def sends_for_ever(connection: socket.socket, block: bytes, most: int = 20_000_000) -> int:
    """How many bytes were taken before the connection was closed."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(block)
            sent += len(block)
    except OSError:
        pass
    return sent


START = b"GET /health HTTP/1.1\r\nHost: x\r\n"
BODY = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 110
CHUNKED = b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        (START, b"".join(b"X-%d: %s\r\n" % (number, b"a" * 950) for number in range(64))),
        (START + b"X: ", b"a" * 65_536),
        (b"GET /", b"a" * 65_536),
        (CHUNKED + b"0\r\n", b"".join(b"X-%d: %s\r\n" % (number, b"a" * 950) for number in range(64))),
        (CHUNKED + b"5;", b"a" * 65_536),
    ],
    ids=["many headers", "one header", "the path", "trailers", "an extension of a chunk"],
)
def test_a_head_without_an_end_is_refused(patient: Server, begin: bytes, block: bytes) -> None:
    before = patient.memory()
    with patient.connect(begin) as connection:
        # What the sockets between the two hold is sent, though nobody takes it.
        assert sends_for_ever(connection, block) < 15_000_000
    assert patient.memory() - before < 20_000
    assert patient.ask("GET", "/health")[0] == 200


def test_what_is_no_larger_than_it_may_be_passes(patient: Server) -> None:
    assert patient.ask("GET", "/health", **{f"X-{number}": "a" * 900 for number in range(30)})[0] == 200
    assert patient.ask("POST", "/length", b"x" * 1_000_000) == (200, b"1000000")
    bytewise = b"".join(b"1\r\nx\r\n" for _ in range(10_000))
    start = b"POST /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with patient.connect(start + bytewise + b"0\r\n\r\n") as connection:
        assert connection.makefile("rb").read().endswith(b"10000")


def await_end(connection: socket.socket) -> None:
    """Return when the other side has closed the connection."""
    with suppress(OSError):
        while connection.recv(65_536):
            pass


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /length HTTP/1.1\r\nHost: x\r\nX: ", START + b"\r\n" + START, BODY, CHUNKED, START + b"\r\n" + BODY],
    ids=["nothing", "half a head", "half a second head", "half a body", "a chunk of a body", "half a second body"],
)
def test_half_sent_requests_are_closed_in_time(quick: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        half = [stack.enter_context(quick.connect(sent)) for _ in range(50)]
        assert quick.ask("GET", "/health")[0] == 200
        for one in half:
            await_end(one)


def test_who_sends_the_rest_after_the_answer_is_closed(quick: Server) -> None:
    with quick.connect(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n") as connection:
        assert b"404" in connection.recv(65_536)
        connection.sendall(b"12345")
        await_end(connection)


def test_a_stranger_is_refused_at_once_and_goes(patient: Server) -> None:
    """An endpoint that says nothing takes a credential, and nothing of a body is waited for without one."""
    head = b"POST /known HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n"
    for sent in (b"\r\n", b"\r\n" + b"x" * 110, b"Expect: 100-continue\r\n\r\n"):
        with patient.connect(head + sent) as connection:
            answer = connection.makefile("rb").read().lower()  # to the end: here no connection may be silent too long
        assert answer.startswith(b"http/1.1 401")
        assert b"\r\nconnection: close\r\n" in answer
        assert b"\r\nwww-authenticate: bearer" in answer
    assert patient.ask("POST", "/known", b"x" * 900_000)[0] == 401  # who is busy sending sees the answer
    assert patient.ask("POST", "/known", b"x" * 900_000, **{"X-API-Key": "k"}) == (200, b"900000")


def test_who_trickles_after_the_answer_is_closed(quick: Server) -> None:
    """The answer is 404 before the body has come: what is left of it may not keep the connection."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    with quick.connect(head) as connection, suppress(OSError):  # whichever way the system says that nobody listens
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("sent", [START, BODY], ids=["half a head", "half a body"])
def test_of_too_many_connections_those_go_that_wait_longest(patient: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        half = [stack.enter_context(patient.connect(sent)) for _ in range(60)]
        for one in half[:40]:
            await_end(one)
        for _ in range(5):
            assert patient.ask("GET", "/health")[0] == 200


def request(peer: str, sent: str) -> dict[str, Any]:
    return {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", sent.encode())]}


@pytest.mark.parametrize(
    ("trusted", "sent", "seen"),
    [
        ("", "203.0.113.9", "127.0.0.1"),  # nobody is believed, neither is who comes from loopback
        ("10.0.0.0/8", "203.0.113.9", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("localhost", "203.0.113.9", "203.0.113.9"),  # a name, whoever has it now
        ("nobody.invalid", "203.0.113.9", "127.0.0.1"),
        ("127.0.0.0/8, 10.1.0.0/16", "198.51.100.7, 203.0.113.9, 10.1.2.3", "203.0.113.9"),  # what a client adds is not
    ],
)
async def test_who_is_asking(trusted: str, sent: str, seen: str) -> None:
    told: list[str] = []

    async def app(scope: Any, *_: object) -> None:
        told.append(scope["client"][0])

    await proxies.Proxies(app, trusted)(request("127.0.0.1", sent), None, None)  # type: ignore[arg-type]
    assert told == [seen]


def test_whose_word_is_taken_is_a_setting(patient: Server) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert patient.ask("GET", "/address", **forwarded) == (200, b'"127.0.0.1"')
    for server in serving(600, 20, "127.0.0.1"):
        assert server.ask("GET", "/address", **forwarded) == (200, b'"203.0.113.9"')


async def test_a_look_up_that_fails_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody tells is as it was; when nobody has the name any more, its addresses are anybody's."""
    told: list[Any] = [["10.9.9.9"], socket.gaierror(socket.EAI_AGAIN, "no server answers"), TimeoutError(),
                       ["10.9.9.8"], socket.gaierror(socket.EAI_NONAME, "nobody")]  # fmt: skip

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        now = told.pop(0)
        if isinstance(now, OSError):
            raise now
        return [(0, 0, 0, "", (address, 0)) for address in now]

    seen = []

    async def app(scope: Any, *_: object) -> None:
        seen.append(scope["client"][0])

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(proxies, "FRESH_SECONDS", -1)
    asked = proxies.Proxies(app, "edge.internal")
    for peer in ("10.9.9.9", "10.9.9.9", "10.9.9.9", "10.9.9.8", "10.9.9.8"):
        await asked(request(peer, "203.0.113.9"), None, None)  # type: ignore[arg-type]
    assert seen == ["203.0.113.9"] * 4 + ["10.9.9.8"]
