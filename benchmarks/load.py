"""How many requests a second does the stack answer on one machine, and how long do they take?

.venv/bin/python benchmarks/load.py [--seconds 20] [--concurrency 16]

Starts a stack of its own from the images that are built, asks it over loopback, and removes it. A single answer that
is not the right one ends the run: figures with errors in them are worth nothing. The client is a bare HTTP/1.1 one on
asyncio, because a full one takes longer than the services do; client and services share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from tasks.base import commands
from tasks.base.errors import UserError
from tasks.base.formatting import seconds_text
from tasks.run import current
from tasks.stack import bringup, ephemeral_stack
from tasks.stack.checkout import project_of
from tasks.stack.ephemeral_stack import EphemeralStack

MEMORIES = 500
TOPICS = ("the train to Oslo", "peanuts and allergies", "the server room", "a favourite colour", "the spare key")


@dataclass(frozen=True)
class Request:
    """What is asked again and again, and what must stand in every answer."""

    name: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    expected: bytes


@dataclass(frozen=True)
class Figures:
    """What came of it; times in milliseconds."""

    name: str
    requests: int
    errors: int
    requests_per_second: float
    p50: float
    p90: float
    p99: float
    longest: float


def figures(name: str, times: list[float], wall: float) -> Figures:
    """The figures of the times, in seconds, that requests took in ``wall`` seconds."""
    cuts = statistics.quantiles(times, n=100)
    p50, p90, p99, longest = (round(seconds * 1000, 2) for seconds in (cuts[49], cuts[89], cuts[98], max(times)))
    return Figures(name, len(times), 0, round(len(times) / wall, 1), p50, p90, p99, longest)


async def ask(request: Request, until: float, times: list[float]) -> None:
    """One client on one connection: the next request as soon as the last was answered."""
    target = urlsplit(request.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    headers = {"Host": target.netloc, **request.headers, "Content-Length": str(len(request.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    data = f"POST {target.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body
    try:
        while time.monotonic() < until:
            began = time.monotonic()
            writer.write(data)
            answered = await reader.readuntil(b"\r\n\r\n")
            length = int(answered.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
            times.append(time.monotonic() - began)
            if b" 200 " not in answered[:16] or request.expected not in body:
                raise UserError(f"{request.name}: answered {answered.splitlines()[0]!r} {body[:200]!r}")
    finally:
        writer.close()


async def load(request: Request, seconds: float, concurrency: int) -> Figures:
    """Ask for so many seconds with so many clients. ``UserError`` at the first wrong answer."""
    for warming in (True, False):
        times: list[float] = []
        began = time.monotonic()
        until = began + (min(2.0, seconds) if warming else seconds)
        async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as clients:
            for _ in range(concurrency):
                clients.create_task(ask(request, until, times))
    return figures(request.name, times, time.monotonic() - began)


def prepare(running: EphemeralStack) -> list[Request]:
    """A user with a token, an API key and memories; the requests of the load."""
    auth, memory = running.urls["AUTH_URL"], running.urls["MEMORY_URL"]
    user = {"username": f"load-{secrets.token_hex(4)}", "password": secrets.token_urlsafe(16)}
    with httpx.Client(trust_env=False, timeout=30) as client:
        client.post(f"{auth}/users", json=user).raise_for_status()
        answer = client.post(f"{auth}/token", data=user).raise_for_status()
        token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        answer = client.post(f"{auth}/api-keys", json={"name": "load"}, headers=token).raise_for_status()
        key = {"X-API-Key": answer.json()["key"]}
        for number in range(MEMORIES):
            text = f"Note {number} is about {TOPICS[number % len(TOPICS)]}."
            client.post(f"{memory}/memories", json={"text": text}, headers=key).raise_for_status()
    known = f'"username":"{user["username"]}"'.encode()
    query = json.dumps({"query": "When does the train leave?", "top_k": 5}).encode()
    as_json = {"Content-Type": "application/json"}
    return [
        Request("auth verify, access token", f"{auth}/verify", token, b"", known),
        Request("auth verify, API key", f"{auth}/verify", key, b"", known),
        Request(f"memory search among {MEMORIES}", f"{memory}/search", {**key, **as_json}, query, b"train to Oslo"),
    ]


def markdown(found: list[Figures], seconds: float, concurrency: int, up_seconds: float) -> str:
    """The figures as a table."""
    lines = [
        "# Load on the running stack",
        "",
        f"{concurrency} clients for {seconds:g} s each, over loopback; client and services share the machine. "
        f"The stack was healthy {up_seconds:.0f} s after it was started from nothing.",
        "",
        "| request | requests | errors | requests/s | p50 ms | p90 ms | p99 ms | longest ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {' | '.join(str(value) for value in asdict(one).values())} |" for one in found]
    return "\n".join([*lines, "", measure.in_words(measure.machine()), ""])


def main() -> int:
    """Start a stack, load it, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--concurrency", type=int, default=16)
    arguments = parser.parse_args()
    commands.stop_on_signals()
    run = current()
    began = time.monotonic()
    found: list[Figures] = []
    wrong = False
    try:
        with ephemeral_stack.running(project_of(run), bringup.terms(run, "load")) as running:
            if not running.outcome.healthy:
                raise UserError(bringup.explain(running.outcome, running.compose))
            up_seconds = time.monotonic() - began
            requests = prepare(running)
            for number, request in enumerate(requests):
                left = seconds_text(arguments.seconds * (len(requests) - number))
                print(f"{number + 1}/{len(requests)} {request.name}; about {left} left", file=sys.stderr)
                found.append(asyncio.run(load(request, arguments.seconds, arguments.concurrency)))
    except* UserError as errors:
        print(*(str(error) for error in errors.exceptions), sep="\n", file=sys.stderr)
        wrong = True
    if wrong:
        return 1
    script = Path(__file__)
    content = {
        "machine": measure.machine(), "seconds": arguments.seconds, "concurrency": arguments.concurrency,
        "up_seconds": round(up_seconds, 1), "rows": [asdict(one) for one in found],
    }  # fmt: skip
    script.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    text = markdown(found, arguments.seconds, arguments.concurrency, up_seconds)
    script.with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
