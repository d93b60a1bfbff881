"""Does the model's work end when who asked has left? 1,000 chats, of which every other one leaves.

.venv/bin/python benchmarks/leavers.py [--chats 1000]

Starts a stack of its own, with a model on this machine that knows when its work at each ended, and removes it. Users
ask 250 chats at once, as a stream and not, with the limits as they are by default, so that most of them wait for a
place. Of each pair of chats one leaves after a while, wherever it is by then; the model would need half a minute for
its answer. The aim is that the model's work ends within 2 s of that, or never begins. Who stays is to have the answer,
for which the model takes a second. Takes two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import attack, load, measure, own_stack
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.stack import ephemeral_stack
from tasks.end_to_end import urls

USERS = 10
AT_ONCE = 250
ANSWER_SECONDS = {"stays": 1.0, "leaves": 30.0}
GOAL_SECONDS = 2.0


class Model:
    """Answers after ``ANSWER_SECONDS``; knows when its work at each question ended, if it has."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with one request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.CancelledError):  # has left before it asked
            writer.close()
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        asked = json.loads(await reader.readexactly(length))
        question = asked["messages"][-1]["content"]
        self.ended[question] = math.inf
        if asked.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            writer.write(_event({"role": "assistant", "content": "You "}))
        gone = asyncio.create_task(reader.read(1))
        await asyncio.wait([gone], timeout=ANSWER_SECONDS[question.split()[0]])
        self.ended[question] = time.monotonic()
        if not gone.done():
            writer.write(_streamed(question) if asked.get("stream") else _whole(question))
        gone.cancel()
        writer.close()


def _event(delta: dict[str, str]) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]})}\n\n".encode()


def _streamed(question: str) -> bytes:
    return _event({"content": f"asked: {question}"}) + b"data: [DONE]\n\n"


def _whole(question: str) -> bytes:
    message = {"role": "assistant", "content": f"You asked: {question}"}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


@dataclass
class Chat:
    """A chat: its question, which says whether it is to leave, and when it left."""

    question: str
    left: float | None = None

    @property
    def leaves(self) -> bool:
        """Whether it is to leave."""
        return self.question.startswith("leaves")


async def ask(chat: Chat, at: attack.Door, token: str) -> None:
    """Ask until there is an answer, or until it leaves. ``UserError`` when the answer is a wrong one."""
    headers = {"Content-Type": "application/json", "Authorization": token}
    body = load.chat("held", chat.question, stream=chat.question.endswith("as a stream"))
    seconds = random.Random(chat.question).uniform(0.5, 6)  # so long it waits
    try:
        async with asyncio.timeout(seconds if chat.leaves else None):
            while b" 429 " in (answer := await attack.asked(at, "POST", load.CHAT, headers, body))[:16]:
                pass
    except TimeoutError:
        chat.left = time.monotonic()
        return
    if f"asked: {chat.question}".encode() not in answer:
        raise UserError(f"{chat.question}: answered {answer[:300]!r}")


async def all_of_them(chats: Sequence[Chat], at: attack.Door, tokens: Sequence[str], host: str, port: int) -> Model:
    """Ask so many at once, until all have been answered or have left; the model they asked."""
    model = Model()
    waiting = iter(enumerate(chats))

    async def some() -> None:
        for number, chat in waiting:
            await ask(chat, at, tokens[number % len(tokens)])

    async with await asyncio.start_server(model.serve, host, port):
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
        await asyncio.sleep(2 * GOAL_SECONDS)
    return model


def figures(chats: Sequence[Chat], model: Model) -> dict[str, float]:
    """How many were answered, and left; of those where they were; and how long the model's work went on, in seconds."""
    left = {chat.question: chat.left for chat in chats if chat.left is not None}
    ended = [model.ended.get(question, 0) - left[question] for question in left]
    at_work = [seconds for seconds in ended if seconds > 0]
    return {
        "chats": len(chats), "answered": len(chats) - len(left), "left": len(left),
        "waiting": len(left) - len(at_work), "at work": len(at_work),
        "p50": round(statistics.median(at_work), 3), "longest": round(max(at_work), 3),
    }  # fmt: skip


def markdown(found: dict[str, float]) -> str:
    """The figures as a table."""
    met = found["longest"] <= GOAL_SECONDS
    lines = [
        "# Chats that leave",
        "",
        f"{found['chats']} chats of {USERS} users, {AT_ONCE} at once. The model takes {ANSWER_SECONDS['stays']:g} s "
        f"for its answer to who stays, and {ANSWER_SECONDS['leaves']:g} s to who leaves. The aim: its work ends "
        f"at most {GOAL_SECONDS:g} s after who asked has left.",
        "",
        "| chats | answered | left | of these while they waited | while the model was at work | its work went on for, "
        "p50 s | at most s | |",
        "|--:|--:|--:|--:|--:|--:|--:|---|",
        f"| {' | '.join(str(value) for value in found.values())} | {'met' if met else '**missed**'} |",
    ]
    return "\n".join([*lines, "", measure.in_words(measure.machine()), ""])


def main() -> int:
    """Start a stack, ask and leave, keep the figures. Status 1 when an answer was wrong or the aim missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=1000)
    arguments = parser.parse_args()
    asked = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    host = commands.run(asked).checked("docker network inspect").stdout.strip()
    kinds = ("stays {} as a stream", "leaves {} as a stream", "stays {} as a whole", "leaves {} as a whole")
    chats = [Chat(kinds[number % 4].format(number)) for number in range(arguments.chats)]
    with ephemeral_stack.free_port() as port:
        os.environ["E2E_MODELS"] = f",held=http://{host}:{port}/v1"
        with own_stack.started("leavers") as running:
            tokens = [attack.new_user(urls(running)["AUTH_URL"])["token"] for _ in range(USERS)]
            at = attack.door(attack.from_elsewhere(running)["ORCHESTRATOR_URL"])
            model = asyncio.run(all_of_them(chats, at, tokens, host, port))
    found = figures(chats, model)
    content = {"machine": measure.machine(), "figures": found}
    text = markdown(found)
    measure.keep(Path(__file__), content, text)
    return 1 if "**missed**" in text else 0


if __name__ == "__main__":
    sys.exit(main())
