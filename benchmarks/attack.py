"""Do people notice when the stack is attacked? How long their requests take, alone and during each attack.

.venv/bin/python benchmarks/attack.py [--seconds 15]

Starts a stack of its own with the edge (``COMPOSE_PROFILES=edge doit build_optimized`` first), and removes it. Some
people use it all the time, a request every 0.2 seconds each (verify, search, session, chat), and log in and out. The
attackers are a process of their own at the lowest priority, and their packets go to the containers as those from
another machine do, not over loopback, where a program of the engine copies each byte: if they came from there, neither
program would take the services' processor.

- **bulk**: a user keeps as much as the services take
- **heads**: 97 MB of headers on a connection, again and again
- **half-sent**: 400 connections whose requests never end, each opened anew when it is closed
- **bodies**: as many whose heads are whole, and whose bodies stop after 110 bytes
- **leavers**: a user asks a slow model and leaves after a second, 24 times side by side
- **deletes**: a user asks a slow model, and deletes what is asked while the model is at it
- **flood**: a user asks 100 things at once, again and again
- **guessing**: log-ins with wrong passwords, each with another ``X-Forwarded-For``

Heads, half-sent requests and bodies go to the edge and to the services themselves, guessing to the edge, the rest to
the service.
A wrong answer to those who use it ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import secrets
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import load, measure, own_stack
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.stack import ephemeral_stack
from tasks.end_to_end import urls

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

PEOPLE = 6
EACH_SECONDS = 0.2
HALF_SENT = 400
KINDS = ("bulk", "heads", "half-sent", "bodies", "leavers", "deletes", "flood", "guessing")
HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 950) for number in range(64))
TARGET = 2
"""At most so many times as long as without an attack."""


@dataclass(frozen=True)
class Door:
    """Where a connection goes to, and whether by TLS."""

    host: str
    port: int
    tls: bool

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; whose certificate it is does not matter to who attacks."""
        context = ssl._create_unverified_context() if self.tls else None
        return await asyncio.open_connection(
            self.host, self.port, ssl=context, server_hostname="localhost" if self.tls else None
        )


def door(url: str, tls: bool = False) -> Door:
    """The door at the address ``url``."""
    parts = urlsplit(url)
    return Door(str(parts.hostname), int(parts.port or 0), tls)


def from_elsewhere(running: ephemeral_stack.EphemeralStack) -> dict[str, str]:
    """Where whoever comes over the network ends up: the containers' own addresses, as ``AUTH_URL``."""
    found = {}
    for container in running.outcome.containers:
        if container.ports:
            argv = ["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"]
            address = commands.run([*argv, container.id]).checked("docker inspect").stdout.split()[0]
            name = f"{ephemeral_stack.variable(container.service)}_URL"
            found[name] = f"http://{address}:{min(container.ports)}"
    return found


async def heads(at: Door) -> None:
    """Send headers for as long as they are taken, 97 MB at most."""
    _, writer = await at.open()
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    for _ in range(97_000_000 // len(HEADERS)):
        if writer.transport.is_closing():
            break
        writer.write(HEADERS)
        await writer.drain()
    writer.close()


async def half_sent(at: Door) -> None:
    """Begin a request, and wait until the other side has had enough."""
    reader, writer = await at.open()
    writer.write(b"POST /token HTTP/1.1\r\nHost: localhost\r\nX: ")
    while await reader.read(65_536):
        pass
    writer.close()


async def half_a_body(at: Door) -> None:
    """Begin a body, and wait until the other side has had enough."""
    reader, writer = await at.open()
    writer.write(b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + b"x" * 110)
    while await reader.read(65_536):
        pass
    writer.close()


async def asked(at: Door, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """What is answered to one request on a connection of its own, which is closed also for who stops waiting."""
    reader, writer = await at.open()
    lines = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    try:
        return await reader.read(-1)
    finally:
        writer.close()


async def leave(at: Door, headers: Mapping[str, str], seconds: float = 1) -> None:
    """Ask the slow model, and leave."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asked(at, "POST", load.CHAT, headers, load.chat("slow"))


async def delete(at: Door, headers: Mapping[str, str]) -> None:
    """Ask the slow model, and delete what is asked meanwhile."""
    asking = asyncio.create_task(leave(at, headers, 30))
    await asyncio.sleep(0.5)
    listed = await asked(at, "GET", "/tasks", headers)
    for task in json.loads(listed.partition(b"\r\n\r\n")[2])["tasks"]:
        await asked(at, "DELETE", f"/tasks/{task['id']}", headers)
    await asking


def attack(kind: str, urls: Mapping[str, str], user: Mapping[str, str], counter: Synchronized[int]) -> None:
    """What the process of the attackers does until it is ended."""
    os.nice(19)
    edge = door(urls["EDGE_URL"], tls=True)
    services = [door(urls[name]) for name in ("AUTH_URL", "MEMORY_URL", "ORCHESTRATOR_URL")]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    text = json.dumps({"messages": [{"role": "user", "content": "x" * 10_000}] * 10}).encode()
    as_json = {"Content-Type": "application/json", "Authorization": user["token"]}

    async def guess() -> None:
        address = f"203.0.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
        body = f"username={user['name']}&password={secrets.token_hex(4)}".encode()
        await asked(edge, "POST", "/token", {**form, "X-Forwarded-For": address}, body)

    async def keep() -> None:
        session = secrets.token_hex(4)
        await asked(services[1], "POST", f"/sessions/{session}/messages", as_json, text)

    async def flood() -> None:
        await asked(services[2], "POST", load.CHAT, as_json, load.chat("echo"))

    every: dict[str, list[Callable[[], Awaitable[None]]]] = {
        "bulk": [keep] * 8,
        "heads": [partial(heads, at) for at in (edge, *services)],
        "half-sent": [partial(half_sent, at) for at in (edge, *services) for _ in range(HALF_SENT // 4)],
        "bodies": [partial(half_a_body, at) for at in (edge, *services) for _ in range(HALF_SENT // 4)],
        "leavers": [partial(leave, services[2], as_json)] * 24,
        "deletes": [partial(delete, services[2], as_json)] * 8,
        "flood": [flood] * 100,
        "guessing": [guess] * 8,
    }

    async def again(act: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError, LookupError):  # cut off, or refused in other words
                await act()
            counter.value += 1
            await asyncio.sleep(0.005)

    async def all_at_once() -> None:
        await asyncio.gather(*(again(act) for act in every[kind]))

    asyncio.run(all_at_once())


def used(requests: list[load.Request], seconds: float, name: str) -> load.Figures:
    """How long the requests of the people take meanwhile. ``UserError`` when an answer is wrong."""
    record = load.Record()
    began = time.monotonic()

    async def people() -> None:
        async with asyncio.timeout(seconds + 60), asyncio.TaskGroup() as group:
            for number in range(PEOPLE):
                order = requests[number % len(requests) :] + requests[: number % len(requests)]
                group.create_task(load.pace(order, EACH_SECONDS, began + seconds, record))

    asyncio.run(people())
    if record.errors:
        raise UserError(f"{name}: {len(record.errors)} wrong answers, the first: {record.errors[0]}")
    return load.figures(name, record.times, time.monotonic() - began)


def new_user(auth: str) -> dict[str, str]:
    """A user with a token."""
    user = {"username": f"person-{secrets.token_hex(4)}", "password": secrets.token_urlsafe(16)}
    with httpx.Client(trust_env=False, timeout=30) as client:
        client.post(f"{auth}/users", json=user).raise_for_status()
        token = client.post(f"{auth}/token", data=user).raise_for_status().json()["access_token"]
    return {"name": user["username"], "password": user["password"], "token": f"Bearer {token}"}


def log_in_and_out(auth: str, user: Mapping[str, str]) -> None:
    """``UserError`` unless that works."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.post(f"{auth}/token", data={"username": user["name"], "password": user["password"]})
        if answer.status_code == 200:
            token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            answer = client.post(f"{auth}/logout", headers=token)
        if answer.status_code != 204:
            raise UserError(f"logging in and out: {answer.status_code} {answer.text}")


def tried(urls: Mapping[str, str], attacked: Mapping[str, str], seconds: float) -> list[load.Figures]:
    """The figures without an attack, then during each, with a pause between."""
    requests, user, attacker = load.prepare(urls), *(new_user(urls["AUTH_URL"]) for _ in range(2))
    used(requests, 2, "warming up")
    rows = [used(requests, seconds, "none")]
    forking = multiprocessing.get_context("spawn")
    for kind in KINDS:
        print(f"{kind} …", file=sys.stderr)
        counter = forking.Value("i", 0, lock=False)
        attackers = forking.Process(target=attack, args=(kind, dict(attacked), attacker, counter), daemon=True)
        attackers.start()
        try:
            time.sleep(2)
            rows.append(used(requests, seconds, kind))
            if kind != "guessing":  # whoever guesses from one's own address has used up its log-ins
                log_in_and_out(urls["AUTH_URL"], user)
            print(f"{kind}: {counter.value} times", file=sys.stderr)
        finally:
            attackers.kill()
            attackers.join()
        time.sleep(2)
    return [*rows, used(requests, seconds, "none, afterwards")]


def markdown(rows: list[load.Figures], seconds: float) -> str:
    """The figures as a table, each against those without an attack."""
    alone = rows[0]
    lines = [
        "# People and attackers",
        "",
        f"{PEOPLE} people, a request every {EACH_SECONDS} s each, {seconds:g} s for each row; the attackers run at the "
        f"lowest priority on the same machine. The aim: a p50 and a p90 of less than {TARGET} times "
        "those without an attack.",
        "",
        "| attack | requests | p50 ms | p90 ms | p99 ms | longest ms | p50 × | p90 × | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for one in rows:
        p50, p90 = one.p50 / alone.p50, one.p90 / alone.p90
        met = "" if one is alone else "met" if max(p50, p90) < TARGET else "**missed**"
        lines.append(
            f"| {one.name} | {one.requests} | {one.p50} | {one.p90} | {one.p99} | {one.longest} | {p50:.2f} "
            f"| {p90:.2f} | {met} |"
        )
    return "\n".join([*lines, "", measure.in_words(measure.machine()), ""])


def main() -> int:
    """Start a stack, use and attack it, keep the figures. Status 1 when an answer was wrong or an aim missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    arguments = parser.parse_args()
    os.environ["COMPOSE_PROFILES"] = "edge"
    with own_stack.started("attack") as running:
        rows = tried(urls(running), from_elsewhere(running), arguments.seconds)
    content = {"machine": measure.machine(), "seconds": arguments.seconds, "rows": [asdict(one) for one in rows]}
    text = markdown(rows, arguments.seconds)
    measure.keep(Path(__file__), content, text)
    return 1 if "**missed**" in text else 0


if __name__ == "__main__":
    sys.exit(main())
