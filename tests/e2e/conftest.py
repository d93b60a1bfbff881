"""Where the stack is, and people who use it.

The addresses come from AUTH_URL, MEMORY_URL and ORCHESTRATOR_URL; `doit ci_test` sets them. The orchestrator must have
tests/model_server as its model: that one repeats what it was told.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.waiting import patience

ADDRESSES = ("AUTH_URL", "MEMORY_URL", "ORCHESTRATOR_URL")

# More than the limit of a request (10 seconds), so a request that takes longer hangs, and httpx says so.
LIMIT_SECONDS = 30.0


@dataclass(frozen=True)
class Stack:
    """Clients of the three services."""

    auth: httpx.Client
    memory: httpx.Client
    orchestrator: httpx.Client

    def clients(self) -> tuple[httpx.Client, ...]:
        return self.auth, self.memory, self.orchestrator


@dataclass(frozen=True)
class Person:
    """Somebody with an account, and a token of theirs."""

    username: str
    password: str = field(repr=False)
    token: dict[str, str] = field(repr=False)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    missing = [name for name in ADDRESSES if not os.environ.get(name)]
    if missing:
        pytest.skip(f"no running stack: {', '.join(missing)} not set (doit ci_test starts one and sets them)")
    auth, memory, orchestrator = (
        httpx.Client(base_url=os.environ[name], timeout=patience(LIMIT_SECONDS), trust_env=False) for name in ADDRESSES
    )
    with auth, memory, orchestrator:
        yield Stack(auth, memory, orchestrator)


def register(stack: Stack) -> Person:
    """A new user, logged in."""
    username, password = f"e2e-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
    answer = stack.auth.post("/users", json={"username": username, "password": password})
    assert answer.status_code == 201, answer.text
    return Person(username, password, log_in(stack, username, password))


def log_in(stack: Stack, username: str, password: str, **form: Any) -> dict[str, str]:
    """The header that proves who it is."""
    answer = stack.auth.post("/token", data={"username": username, "password": password, **form})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.fixture
def alice(stack: Stack) -> Person:
    return register(stack)


@pytest.fixture
def bob(stack: Stack) -> Person:
    return register(stack)


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def container(service: str) -> str:
    project = os.environ.get("E2E_PROJECT")
    if not project:
        pytest.skip("E2E_PROJECT is not set: whose containers may be killed is not known (doit ci_test sets it)")
    found = docker(
        "ps", "--quiet", "--filter", f"label=com.docker.compose.project={project}",
        "--filter", f"label=com.docker.compose.service={service}",
    )  # fmt: skip
    assert found, f"{project} runs no container of {service}"
    return found.splitlines()[0]
