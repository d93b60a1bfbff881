"""Each container is killed in turn: no request hangs, it comes back, and nothing is lost.

E2E_PROJECT names the Compose project whose containers these are; `doit ci_test` sets it.
"""

from __future__ import annotations

import os

import httpx
import pytest

from tests.e2e.conftest import Person, Stack, container, docker
from tests.waiting import until

pytestmark = pytest.mark.stack

FACT = "The spare key is under the blue flowerpot."


def use(stack: Stack, key: dict[str, str]) -> list[int]:
    """One request of each kind: the statuses, 0 where nothing listens. A request that hangs raises."""
    statuses = []
    for client, method, path, body in (
        (stack.auth, "POST", "/verify", None),
        (stack.auth, "GET", "/health", None),
        (stack.memory, "POST", "/search", {"query": FACT}),
        (stack.memory, "GET", "/sessions/s/messages", None),
        (stack.orchestrator, "POST", "/tasks", {"prompt": "Where is the key?"}),
        (stack.orchestrator, "GET", "/tasks", None),
    ):
        try:
            statuses.append(client.request(method, path, json=body, headers=key).status_code)
        except httpx.TimeoutException:
            raise
        except httpx.TransportError:
            statuses.append(0)
    return statuses


WORKS = [200, 200, 200, 200, 201, 200]


@pytest.mark.parametrize("service", ["redis", "postgres", "auth", "memory", "orchestrator"])
def test_a_killed_container(stack: Stack, alice: Person, service: str) -> None:
    killed = container(service)
    made = stack.auth.post("/api-keys", json={"password": alice.password, "name": "e2e"}, headers=alice.token).json()
    key = {"X-API-Key": made["key"]}
    kept = stack.memory.post("/memories", json={"text": FACT}, headers=key).json()
    said = {"messages": [{"role": "user", "content": "hello"}]}
    assert stack.memory.post("/sessions/s/messages", json=said, headers=key).status_code == 201
    task = stack.orchestrator.post("/tasks", json={"prompt": "Where is the key?"}, headers=key).json()
    ended = stack.auth.post("/token", data={"username": alice.username, "password": alice.password}).json()
    ended_token = {"Authorization": f"Bearer {ended['access_token']}"}
    assert stack.auth.post("/logout", headers=ended_token).status_code == 204

    docker("kill", killed)
    for _ in range(3):
        statuses = use(stack, key)
        assert statuses != WORKS
        # Refused, said to be away, or not concerned; never a 500, and never a credential taken for a bad one.
        assert set(statuses) <= {0, 200, 201, 502, 503, 504}, statuses
    # An engine takes `docker kill` for its user's wish, and restarts nothing of its own accord.
    docker("start", killed)
    until(lambda: use(stack, key) == WORKS, f"everything works after {service} is back")

    assert stack.memory.get(f"/memories/{kept['id']}", headers=key).json() == kept
    assert stack.memory.get("/sessions/s/messages", headers=key).json()["messages"] == said["messages"]
    assert stack.orchestrator.get(f"/tasks/{task['id']}", headers=key).json() == task
    assert stack.auth.post("/verify", headers=alice.token).status_code == 200
    assert stack.auth.post("/verify", headers=ended_token).status_code == 401  # revoked is revoked


def test_a_crash_is_made_good_without_anybody(stack: Stack, alice: Person) -> None:
    """The process dies, as it would for want of memory: the engine restarts the container."""
    crashed = container("auth")
    process = int(docker("inspect", "--format", "{{.State.Pid}}", crashed))
    try:
        os.kill(process, 9)
    except (PermissionError, ProcessLookupError):
        pytest.skip("a container's process can be killed from outside by root on the engine's machine only")
    until(lambda: int(docker("inspect", "--format", "{{.State.Pid}}", crashed)) not in (0, process), "auth runs again")
    until(lambda: use(stack, alice.token) == WORKS, "everything works again")
