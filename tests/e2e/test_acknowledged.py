"""Containers are killed at random while people write: what was acknowledged is there afterwards, and what was ended
stays ended.

One kill in a usual run; `FAULTS_MINUTES=10 doit ci_test -- -k acknowledged` goes on for ten minutes, with E2E_SEED as
it was told.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest

from tests.e2e.conftest import Person, Stack, container, docker, register
from tests.waiting import lasting, until

pytestmark = pytest.mark.stack

MINUTES = float(os.environ.get("FAULTS_MINUTES") or 0)
SEED = int(os.environ.get("E2E_SEED") or time.time_ns() % 1_000_000)
WRITERS = 3
KEPT = 500
"""As many messages as can be asked for at a time; half of them are looked at, as others may be in between."""
KILLED = ("redis", "postgres", "auth", "memory", "orchestrator")
NOT_NOW = {0, 502, 503, 504}
"""What a request may end with while something is away; 0: nothing listens."""


@dataclass
class Writer:
    """Somebody who writes, and remembers what was acknowledged. ``token`` is a new one now and then."""

    stack: Stack
    who: Person
    key: dict[str, str]
    token: dict[str, str]
    chance: random.Random
    session: str = "s"
    logged_in: float = field(default_factory=time.monotonic)
    made_a_key: float = float("-inf")
    memories: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    ended: list[dict[str, str]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def ask(self, client: httpx.Client, method: str, path: str, expected: int, **more: object) -> httpx.Response | None:
        """The answer when it acknowledges; none when something was away. Anything else is ``wrong``."""
        more.setdefault("headers", self.key)
        try:
            answer = client.request(method, path, **more)
        except httpx.TransportError:
            self.statuses[0] += 1
            return None
        self.statuses[answer.status_code] += 1
        if answer.status_code == expected:
            return answer
        if answer.status_code not in NOT_NOW:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return None

    def write(self) -> None:
        """One write of some kind."""
        text = f"Note {uuid.uuid4()}"
        self.chance.choice([self.remember, self.remember, self.say, self.say, self.do, self.make_key, self.leave])(text)

    def remember(self, text: str) -> None:
        if answer := self.ask(self.stack.memory, "POST", "/memories", 201, json={"text": text}):
            self.memories[answer.json()["id"]] = text

    def say(self, text: str) -> None:
        body = {"messages": [{"role": "user", "content": text}]}
        if self.ask(self.stack.memory, "POST", f"/sessions/{self.session}/messages", 201, json=body):
            self.messages.append(text)

    def do(self, text: str) -> None:
        if answer := self.ask(self.stack.orchestrator, "POST", "/tasks", 201, json={"prompt": text}):
            self.tasks[answer.json()["id"]] = answer.json()["answer"]

    def make_key(self, text: str) -> None:
        """A new key, which is ended again; not so often that its password is asked for too often."""
        if time.monotonic() - self.made_a_key < 20:
            return
        self.made_a_key = time.monotonic()
        asked = {"password": self.who.password, "name": text}
        made = self.ask(self.stack.auth, "POST", "/api-keys", 201, json=asked, headers=self.token)
        if made is None:
            return
        key = {"X-API-Key": made.json()["key"]}
        if self.ask(self.stack.auth, "DELETE", f"/api-keys/{made.json()['id']}", 204, headers=self.token):
            self.ended.append(key)

    def leave(self, text: str) -> None:
        """Log in again, and end the token of before; not so often that it is too often."""
        if time.monotonic() - self.logged_in < 10:
            return
        self.logged_in = time.monotonic()
        form = {"username": self.who.username, "password": self.who.password}
        answer = self.ask(self.stack.auth, "POST", "/token", 200, data=form, headers={})
        if answer is None:
            return
        before, self.token = self.token, {"Authorization": f"Bearer {answer.json()['access_token']}"}
        if self.ask(self.stack.auth, "POST", "/logout", 204, headers=before):
            self.ended.append(before)

    def lost(self) -> list[str]:
        """What was acknowledged and is not there; what was ended and works."""
        missing = list(self.wrong)
        for memory, text in self.memories.items():
            answer = self.stack.memory.get(f"/memories/{memory}", headers=self.key)
            if answer.status_code != 200 or answer.json()["text"] != text:
                missing.append(f"memory {memory}: {answer.status_code}")
        there = self.stack.memory.get(f"/sessions/{self.session}/messages?last={KEPT}", headers=self.key).json()
        said = iter(one["content"] for one in there["messages"])
        # What was not acknowledged may be there too, in between.
        missing += [f"message {text!r}" for text in self.messages[-KEPT // 2 :] if text not in said]
        for task, answered in self.tasks.items():
            answer = self.stack.orchestrator.get(f"/tasks/{task}", headers=self.key)
            if answer.status_code != 200 or answer.json()["answer"] != answered:
                missing.append(f"task {task}: {answer.status_code}")
        for credential in self.ended:
            if (status := self.stack.auth.post("/verify", headers=credential).status_code) != 401:
                missing.append(f"an ended credential: {status}")
        return missing


def writer(stack: Stack, seed: int) -> Writer:
    who = register(stack)
    made = stack.auth.post("/api-keys", json={"password": who.password, "name": "writes"}, headers=who.token)
    assert made.status_code == 201, made.text
    return Writer(stack, who, {"X-API-Key": made.json()["key"]}, who.token, random.Random(seed))


def go_on(one: Writer, over: threading.Event) -> None:
    while not over.is_set():
        one.write()
        over.wait(one.chance.uniform(0.02, 0.3))


def works(stack: Stack) -> bool:
    try:
        return all(client.get("/health").status_code == 200 for client in stack.clients())
    except httpx.TransportError:
        return False


def wait(seconds: float, condition: Callable[[], bool]) -> None:
    """For minutes it is chance what a kill meets; once, it is what ``condition`` says."""
    if MINUTES:
        time.sleep(seconds)
    else:
        until(condition, "the writers write, and meet what is away")


def test_nothing_acknowledged_is_lost(stack: Stack) -> None:
    chance = random.Random(SEED)
    containers = {service: container(service) for service in KILLED}
    until(lambda: works(stack), "everything works")
    writers = [writer(stack, SEED + number) for number in range(WRITERS)]
    over = threading.Event()
    threads = [threading.Thread(target=go_on, args=(one, over)) for one in writers]
    more = lasting(MINUTES * 60)
    kills: Counter[str] = Counter()
    for thread in threads:
        thread.start()
    try:
        while not kills or more():
            wait(chance.uniform(0.5, 5), lambda: all(map(acknowledged, writers)))
            killed = chance.choice(KILLED)
            docker("kill", containers[killed])
            kills[killed] += 1
            wait(chance.uniform(0, 3), lambda: any(NOT_NOW & one.statuses.keys() for one in writers))
            docker("start", containers[killed])
            if chance.random() < 0.7:  # else the next one is killed while this one is not back yet
                until(lambda: works(stack), "everything works again")
            if MINUTES:
                print(f"{sum(kills.values())} kills, {sum(map(acknowledged, writers))} writes", file=sys.stderr)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    until(lambda: works(stack), "everything works again")
    told = f"seed {SEED}, kills {dict(kills)}, answers {dict(sum((one.statuses for one in writers), Counter()))}"
    print(f"{told}, {sum(map(acknowledged, writers))} writes acknowledged", file=sys.stderr)
    assert [one.lost() for one in writers] == [[]] * WRITERS, told
    assert sum(map(acknowledged, writers)) > 0, told


def acknowledged(one: Writer) -> int:
    """How many writes were."""
    return len(one.memories) + len(one.messages) + len(one.tasks) + len(one.ended)
