"""How many requests a second does the stack answer on one machine, and how long do they take?

.venv/bin/python benchmarks/load.py [--seconds 20] [--concurrency 16] [--minutes 60] [--restarts] [--to FILE]
                                    [--before FILE]

Starts a stack of its own from the images that are built, asks it over loopback, and removes it. A single answer that
is not the right one ends the run: figures with errors in them are worth nothing. The client is a bare HTTP/1.1 one on
asyncio, because a full one takes longer than the services do; client and services share the machine's cores.

``--minutes`` goes on with all the requests in turn at 80 % of what the stack can do, counts errors, and says how the
containers' memory grew. With ``--restarts`` each service, stores included, is restarted once in five minutes meanwhile,
and who is not answered asks again, as clients do, for up to a minute. Another project's stack, as one of before:
``COMPOSE_FILE=… load.py --to /tmp/before``, and ``--before /tmp/before.json`` beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure, own_stack
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from tasks.end_to_end import urls

MEMORIES = 500
VERIFIED = "memory session, access token verified"
CHAT = "/v1/chat/completions"
RESTARTED = ("auth", "memory", "orchestrator", "postgres", "redis")
"""One each minute."""
PATIENCE_SECONDS = 60
SHARE = 0.8
"""Of the capacity: the load that is to be endured."""
TOPICS = ("the train to Oslo", "peanuts and allergies", "the server room", "a favourite colour", "the spare key")


@dataclass(frozen=True)
class Request:
    """What is asked again and again, and what must stand in every answer."""

    name: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    expected: bytes
    method: str = "POST"

    def data(self) -> bytes:
        """All that is sent."""
        target = urlsplit(self.url)
        headers = {"Host": target.netloc, **self.headers, "Content-Length": str(len(self.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {target.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


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


@dataclass(frozen=True)
class Steady:
    """How it went for some minutes at a share of the capacity (requests a second); memory in MB, minute by minute."""

    minutes: float
    capacity: float
    figures: Figures
    errors: int
    memory: list[float]
    restarts: int = 0
    again: int = 0


class Away(UserError):
    """There is no answer now; who asks again may have one."""


def figures(name: str, times: list[float], wall: float) -> Figures:
    """The figures of the times, in seconds, that requests took in ``wall`` seconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")  # of few times none lies beyond the longest
    p50, p90, p99, longest = (round(seconds * 1000, 2) for seconds in (cuts[49], cuts[89], cuts[98], max(times)))
    return Figures(name, len(times), 0, round(len(times) / wall, 1), p50, p90, p99, longest)


class Client:
    """One client on one connection, opened when it is first needed."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> float:
        """How many seconds the answer took. ``UserError`` when it is a wrong one, ``Away`` when there is none."""
        began = time.monotonic()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._to.hostname, self._to.port)
                began = time.monotonic()
            reader, writer = self._streams
            writer.write(request.data())
            answered = await reader.readuntil(b"\r\n\r\n")
            length = int(answered.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise Away(f"{request.name}: {error!r}") from error
        if answered[9:12] in (b"429", b"502", b"503", b"504"):
            raise Away(f"{request.name}: answered {answered.splitlines()[0]!r} {body[:200]!r}")
        if b" 200 " not in answered[:16] or request.expected not in body:
            raise UserError(f"{request.name}: answered {answered.splitlines()[0]!r} {body[:200]!r}")
        return time.monotonic() - began

    def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def ask(requests: Sequence[Request], until: float, times: list[float]) -> None:
    """One client of each service: the next request, in turn, as soon as the last was answered."""
    clients = {request.url: Client(request.url) for request in requests}
    try:
        for request in itertools.cycle(requests):
            if time.monotonic() >= until:
                break
            times.append(await clients[request.url].ask(request))
    finally:
        for client in clients.values():
            client.close()


async def load(name: str, requests: Sequence[Request], seconds: float, concurrency: int) -> Figures:
    """Ask for so many seconds with so many clients. ``UserError`` at the first wrong answer."""
    for warming in (True, False):
        times: list[float] = []
        began = time.monotonic()
        until = began + (min(2.0, seconds) if warming else seconds)
        async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as clients:
            for _ in range(concurrency):
                clients.create_task(ask(requests, until, times))
    return figures(name, times, time.monotonic() - began)


def prepare(urls: Mapping[str, str]) -> list[Request]:
    """A user with a token, an API key and memories; the requests of the load."""
    auth, memory = urls["AUTH_URL"], urls["MEMORY_URL"]
    user = {"username": f"load-{secrets.token_hex(4)}", "password": secrets.token_urlsafe(16)}
    with httpx.Client(trust_env=False, timeout=30) as client:
        client.post(f"{auth}/users", json=user).raise_for_status()
        answer = client.post(f"{auth}/token", data=user).raise_for_status()
        token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        asked = {"name": "load", "password": user["password"]}
        answer = client.post(f"{auth}/api-keys", json=asked, headers=token).raise_for_status()
        key = {"X-API-Key": answer.json()["key"]}
        for number in range(MEMORIES):
            text = f"Note {number} is about {TOPICS[number % len(TOPICS)]}."
            client.post(f"{memory}/memories", json={"text": text}, headers=key).raise_for_status()
        said = {"messages": [{"role": "user", "content": "The train leaves at nine."}]}
        client.post(f"{memory}/sessions/load/messages", json=said, headers=token).raise_for_status()
    known = f'"username":"{user["username"]}"'.encode()
    query = json.dumps({"query": "When does the train leave?", "top_k": 5}).encode()
    as_json = {"Content-Type": "application/json"}
    return [
        Request("auth verify, access token", f"{auth}/verify", token, b"", known),
        Request("auth verify, API key", f"{auth}/verify", key, b"", known),
        Request(VERIFIED, f"{memory}/sessions/load/messages", token, b"", b"at nine", "GET"),
        Request(f"memory search among {MEMORIES}", f"{memory}/search", {**key, **as_json}, query, b"train to Oslo"),
        Request("chat", urls["ORCHESTRATOR_URL"] + CHAT, {**token, **as_json}, chat("echo"), b"You asked"),
    ]


def chat(model: str, content: str = "When does the train leave?", **more: object) -> bytes:
    """A question to ``model``, as OpenAI's clients send it."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **more}).encode()


@dataclass
class Record:
    """What came of many requests: seconds, and what was wrong. Who is not answered asks again for ``patience`` seconds,
    which count as part of the time; ``again`` is how often."""

    patience: float = 0
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    again: int = 0

    async def ask(self, client: Client, request: Request) -> None:
        """Ask, and keep what came of it."""
        began, before = time.monotonic(), 0.0
        while True:
            try:
                self.times.append(before + await client.ask(request))
            except Away as away:
                if time.monotonic() - began < self.patience:
                    self.again += 1
                    await asyncio.sleep(0.25)
                    before = time.monotonic() - began
                    continue
                self.errors.append(str(away))
            except UserError as error:
                self.errors.append(str(error))
            return


async def pace(requests: Sequence[Request], each: float, until: float, record: Record) -> None:
    """One client of each service: a request, in turn, every ``each`` seconds, or later where an answer was late."""
    clients = {request.url: Client(request.url) for request in requests}
    due = time.monotonic()
    for request in itertools.cycle(requests):
        if time.monotonic() >= until:
            break
        await record.ask(clients[request.url], request)
        due = max(due + each, time.monotonic() - each)
        await asyncio.sleep(max(due - time.monotonic(), 0))
    for client in clients.values():
        client.close()


def memory_of(project: str) -> float:
    """What the containers of a project have in memory, in MB."""
    argv = ["docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]
    containers = commands.run(argv).checked("docker ps").stdout.split()
    argv = ["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", *containers]
    told = commands.run(argv).checked("docker stats").stdout
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    used = (line.split("/")[0].strip() for line in told.splitlines())
    return round(sum(float(one[:-3]) * units[one[-3:]] for one in used if one[-3:] in units) / 1e6, 1)


def restart(project: str, service: str) -> None:
    """Restart the containers of a service, as long as that takes."""
    label = "label=com.docker.compose."
    argv = ["docker", "ps", "--quiet", "--filter", f"{label}project={project}", "--filter", f"{label}service={service}"]
    containers = commands.run(argv).checked("docker ps").stdout.split()
    commands.run(["docker", "restart", *containers]).checked("docker restart")


def endure(requests: Sequence[Request], project: str, arguments: argparse.Namespace) -> Steady:
    """The requests in turn at 80 % of what the stack does with all of them, with a line a minute on standard error."""
    capacity = asyncio.run(load("all in turn", requests, arguments.seconds, arguments.concurrency)).requests_per_second
    record = Record(PATIENCE_SECONDS if arguments.restarts else 0)
    memory = [memory_of(project)]
    each = arguments.concurrency / (capacity * SHARE)
    began = time.monotonic()
    restarts = itertools.cycle(RESTARTED) if arguments.restarts else iter(())
    restarted = 0

    async def all_clients(until: float, service: str | None) -> None:
        async with asyncio.timeout(until - time.monotonic() + 60 + record.patience), asyncio.TaskGroup() as clients:
            for _ in range(arguments.concurrency):
                clients.create_task(pace(requests, each, until, record))
            if service:
                clients.create_task(asyncio.to_thread(restart, project, service))

    while (left := began + arguments.minutes * 60 - time.monotonic()) > 1:
        service = next(restarts, None)
        asyncio.run(all_clients(time.monotonic() + min(left, 60), service))
        restarted += bool(service)
        memory.append(memory_of(project))
        told = f"{(time.monotonic() - began) / 60:.0f} min: {len(record.times)} requests, {len(record.errors)} errors"
        told += f", {record.again} asked again after {service} was restarted" if service else ""
        print(f"{told}, {memory[-1]:g} MB of memory {record.errors[-1:]}", file=sys.stderr)
    errors = len(record.errors)
    all_of_them = figures("all in turn, at 80 % of that", record.times, time.monotonic() - began)
    return Steady(
        arguments.minutes, capacity, replace(all_of_them, errors=errors), errors, memory, restarted, record.again
    )


def markdown(
    found: list[Figures], seconds: float, concurrency: int, up_seconds: float, steady: Steady | None = None
) -> str:
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
    rows = [*found, steady.figures] if steady else found
    lines += [f"| {' | '.join(str(value) for value in asdict(one).values())} |" for one in rows]
    if steady:
        memory = ", ".join(f"{one:g}" for one in (steady.memory[0], steady.memory[1], steady.memory[-1]))
        lines += [
            "",
            f"The last row: {steady.minutes:g} minutes at 80 % of {steady.capacity:g} requests a second, which all of "
            f"them in turn came to. {told_of_restarts(steady)}"
            f"Memory of all containers before, after a minute and at the end: {memory} MB.",
        ]
    return "\n".join([*lines, "", measure.in_words(measure.machine()), ""])


def told_of_restarts(steady: Steady) -> str:
    """What is to be said of restarts."""
    if not steady.restarts:
        return ""
    return (
        f"{', '.join(RESTARTED)} were restarted in turn, one a minute, {steady.restarts} times in all; who was not "
        f"answered asked again, for up to {PATIENCE_SECONDS} s, {steady.again} times in all. "
    )


def compared(before: Mapping[str, Any], rows: Sequence[Figures]) -> str:
    """How many times as many requests a second there are as in ``before``, the figures of another run, as a table."""
    then = {row["name"]: row["requests_per_second"] for row in before["rows"]}
    both = [(one.name, then[one.name], one.requests_per_second) for one in rows if one.name in then]
    lines = [f"| {name} | {was} | {now} | {now / was:.2f} |" for name, was, now in both]
    head = ["## Before", "", "| request | requests/s before | requests/s | × |", "|---|--:|--:|--:|"]
    return "\n".join([*head, *lines, "", f"Before: {measure.in_words(before['machine'])}", ""])


def main() -> int:
    """Start a stack, load it, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=0, help="then 80 %% of what it can do, for so long")
    parser.add_argument("--restarts", action="store_true", help="restart a service each of these minutes")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(""), help="the figures, without suffix")
    parser.add_argument("--before", type=Path, help="the figures of another run, to be compared with")
    arguments = parser.parse_args()
    began = time.monotonic()
    found: list[Figures] = []
    steady: Steady | None = None
    os.environ |= {"ACCESS_TOKEN_SECONDS": "86400", "TOKENS_PER_USER_DAY": "0"}  # longer, and more, than the load
    with own_stack.started("load") as running:
        up_seconds = time.monotonic() - began
        for request in (requests := prepare(urls(running))):
            print(f"{request.name} …", file=sys.stderr)
            found.append(asyncio.run(load(request.name, [request], arguments.seconds, arguments.concurrency)))
        if arguments.minutes:
            steady = endure(requests, running.compose.project, arguments)
    content = {
        "machine": measure.machine(), "seconds": arguments.seconds, "concurrency": arguments.concurrency,
        "up_seconds": round(up_seconds, 1), "rows": [asdict(one) for one in found],
        "steady": asdict(steady) if steady else None,
        "before": json.loads(arguments.before.read_text()) if arguments.before else None,
    }  # fmt: skip
    text = markdown(found, arguments.seconds, arguments.concurrency, up_seconds, steady)
    if content["before"]:
        text += f"\n{compared(content['before'], found)}"
    measure.keep(arguments.to, content, text)
    return 1 if steady and steady.errors else 0


if __name__ == "__main__":
    sys.exit(main())
