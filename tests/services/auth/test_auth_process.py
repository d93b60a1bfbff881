"""auth as the image runs it: a process of uvicorn."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from common import service

SERVICES = Path(service.__file__).parents[1]


def uvicorn(stores: dict[str, Any], *, port: int = 0, **changes: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **{name.upper(): str(value) for name, value in stores.items()}, **changes}
    return subprocess.Popen(
        [sys.executable, "-m", "common.serve", "auth", str(port), "127.0.0.1"],
        cwd=SERVICES, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_an_example_secret_ends_it_at_once_with_a_sentence(stores: dict[str, Any]) -> None:
    process = uvicorn(stores, AUTH_SECRET="change-me-change-me-change-me-change-me")
    out, err = process.communicate()
    assert process.returncode != 0
    assert "AUTH_SECRET: is the value of an example" in err
    assert "Traceback" not in out + err


def test_it_ends_cleanly_and_lets_what_was_asked_be_answered(database: dict[str, Any]) -> None:
    process = uvicorn(database, AUTH_SECRET=secrets.token_hex(32))
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        port = next(
            int(found[1]) for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))
        )
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or []))
        reader.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=None) as http:
            while http.get("/health").status_code != 200:
                time.sleep(0.05)
            # A client that is still sending its body sees the refusal rather than a broken connection.
            large = http.post("/users", content=b"x" * 5_000_000)
            assert large.status_code == 413
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /api-keys HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
            answer = connection.makefile("rb").read().lower()  # to the end, though the body never comes
            assert answer.startswith(b"http/1.1 401")
            assert b"\r\nconnection: close\r\n" in answer
            assert b"\r\nwww-authenticate: bearer" in answer
        with socket.create_connection(("127.0.0.1", port)) as connection:
            body = b'{"username": "nobody", "password": "short"}'
            head = f"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            connection.sendall(head.encode() + b"\r\nExpect: 100-continue\r\n\r\n")
            assert connection.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"  # the body is waited for
            connection.sendall(body[:10])
            process.send_signal(signal.SIGTERM)
            while not any("Waiting for connections to close" in line for line in lines):
                time.sleep(0.05)
            connection.sendall(body[10:])
            assert connection.recv(64).startswith(b"HTTP/1.1 422")
        assert process.wait() in (0, -signal.SIGTERM)
        reader.join()
        assert any('"stopping"' in line for line in lines)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_connections_are_divided_between_processes(database: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = uvicorn(database, port=port, AUTH_SECRET=secrets.token_hex(32), WORKERS="2")
    assert process.stdout is not None
    connections: list[socket.socket] = []
    try:
        # What looks after them says what it does as they do.
        assert json.loads(next(process.stdout))["message"].startswith("Started parent process")
        started = (line for line in process.stdout if "Application startup complete" in line)
        assert [next(started), next(started)]
        connections += (socket.create_connection(("127.0.0.1", port)) for _ in range(64))
        while sum(taken := accepted_by_children(process.pid, port)) < 64:
            time.sleep(0.05)
        # Not by halves, as they are divided by chance; of one socket, one process had taken them all.
        assert sorted(taken)[-2] >= 8
    finally:
        for connection in connections:
            connection.close()
        process.terminate()
        process.communicate()


def accepted_by_children(process: int, port: int) -> list[int]:
    """How many connections to ``port`` each child of a process has taken; they have others, to the stores."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    taken = {f"socket:[{row[9]}]" for row in table if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [len(taken.intersection(open_files(child))) for child in children]


def open_files(process: str) -> Iterator[str]:
    """What a process has open now."""
    for one in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield str(one.readlink())
