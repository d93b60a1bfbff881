"""What people do with the stack, and what it refuses them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Person, Stack, log_in
from tests.waiting import until

pytestmark = pytest.mark.stack

FACTS = (
    "My favourite colour is teal.",
    "The train to Oslo leaves at nine.",
    "Anna is allergic to peanuts.",
    "The server room is on the third floor.",
)


def remember(stack: Stack, who: dict[str, str], text: str) -> dict[str, Any]:
    answer = stack.memory.post("/memories", json={"text": text}, headers=who)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def search(stack: Stack, who: dict[str, str], query: str) -> list[dict[str, Any]]:
    answer = stack.memory.post("/search", json={"query": query}, headers=who)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


def test_every_service_is_healthy(stack: Stack) -> None:
    for client in stack.clients():
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")


def test_from_registration_to_an_answer_that_is_remembered(stack: Stack, alice: Person) -> None:
    made = stack.auth.post("/api-keys", json={"password": alice.password, "name": "e2e"}, headers=alice.token)
    assert made.status_code == 201
    key = {"X-API-Key": made.json()["key"]}
    known = stack.auth.post("/verify", headers=key).json()
    assert (known["username"], known["method"]) == (alice.username, "api_key")

    for fact in FACTS:
        remember(stack, key, fact)
    found = search(stack, key, "Which color do I like best?")
    assert found[0]["text"] == FACTS[0]
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)

    asked = {"prompt": "Which color do I like best?", "session": "e2e"}
    answer = stack.orchestrator.post("/tasks", json=asked, headers=key)
    assert answer.status_code == 201, answer.text
    task = answer.json()
    assert (task["state"], task["stored"]) == ("done", True)
    assert FACTS[0] in [one["text"] for one in task["context"]]
    assert FACTS[0] in task["answer"]  # the model repeats what it was told
    assert stack.orchestrator.get(f"/tasks/{task['id']}", headers=key).json() == task

    session = stack.memory.get("/sessions/e2e/messages", headers=key).json()["messages"]
    assert session == [
        {"role": "user", "content": asked["prompt"]},
        {"role": "assistant", "content": task["answer"]},
    ]
    remembered = [one for one in search(stack, key, asked["prompt"]) if one["metadata"].get("task_id") == task["id"]]
    assert len(remembered) == 1
    assert task["answer"] in remembered[0]["text"]


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_an_answer_comes_as_a_stream(stack: Stack, alice: Person) -> None:
    remember(stack, alice.token, FACTS[1])
    body = {"prompt": "When does the train leave?", "stream": True}
    with stack.orchestrator.stream("POST", "/tasks", json=body, headers=alice.token) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        told = list(events(answer))
    assert [told[0][0], told[-1][0]] == ["task", "done"]
    tokens = [data["text"] for name, data in told if name == "token"]
    assert len(tokens) > 5
    assert "".join(tokens) == told[-1][1]["answer"]
    assert FACTS[1] in told[-1][1]["answer"]


def test_a_model_that_fails_is_said(stack: Stack, alice: Person) -> None:
    answer = stack.orchestrator.post("/tasks", json={"prompt": "a", "model": "broken"}, headers=alice.token)
    assert answer.status_code == 502
    assert "refused with 500" in answer.json()["detail"]
    task = stack.orchestrator.get(f"/tasks/{answer.json()['task_id']}", headers=alice.token).json()
    assert task["state"] == "failed"


def test_a_wrong_password(stack: Stack, alice: Person) -> None:
    answer = stack.auth.post("/token", data={"username": alice.username, "password": "not this one"})
    assert answer.status_code == 401
    assert answer.json()["error"] == "invalid_grant"


def refused_everywhere(stack: Stack, who: dict[str, str]) -> bool:
    return [
        stack.auth.post("/verify", headers=who).status_code,
        stack.memory.post("/search", json={"query": "a"}, headers=who).status_code,
        stack.orchestrator.get("/tasks", headers=who).status_code,
    ] == [401, 401, 401]


def test_an_expired_token(stack: Stack, alice: Person) -> None:
    short = log_in(stack, alice.username, alice.password, expires_in=1)
    until(lambda: refused_everywhere(stack, short), "an expired token is refused")
    assert stack.auth.post("/verify", headers=short).json()["detail"] == "The access token has expired."


def test_a_token_after_logout(stack: Stack, alice: Person) -> None:
    assert stack.auth.post("/logout", headers=alice.token).status_code == 204
    assert refused_everywhere(stack, alice.token)


def test_a_revoked_key(stack: Stack, alice: Person) -> None:
    made = stack.auth.post(
        "/api-keys", json={"password": alice.password, "name": "short-lived"}, headers=alice.token
    ).json()
    key = {"X-API-Key": made["key"]}
    assert stack.orchestrator.get("/tasks", headers=key).status_code == 200
    assert stack.auth.delete(f"/api-keys/{made['id']}", headers=alice.token).status_code == 204
    assert refused_everywhere(stack, key)


def test_no_credential_at_all(stack: Stack) -> None:
    assert refused_everywhere(stack, {})
    assert refused_everywhere(stack, {"Authorization": "Bearer made-up"})
    assert refused_everywhere(stack, {"X-API-Key": "vls_made-up"})


def test_what_is_anothers_does_not_exist(stack: Stack, alice: Person, bob: Person) -> None:
    kept = remember(stack, alice.token, FACTS[2])
    task = stack.orchestrator.post("/tasks", json={"prompt": "a", "session": "mine"}, headers=alice.token).json()
    assert stack.memory.get(f"/memories/{kept['id']}", headers=bob.token).status_code == 404
    assert stack.memory.delete(f"/memories/{kept['id']}", headers=bob.token).status_code == 404
    assert stack.orchestrator.get(f"/tasks/{task['id']}", headers=bob.token).status_code == 404
    assert search(stack, bob.token, FACTS[2]) == []
    assert stack.memory.get("/sessions/mine/messages", headers=bob.token).json()["messages"] == []
    assert stack.memory.get(f"/memories/{kept['id']}", headers=alice.token).json() == kept


def posts(stack: Stack) -> list[tuple[httpx.Client, str]]:
    """Everything that takes a body."""
    return [
        (stack.auth, "/users"),
        (stack.auth, "/token"),
        (stack.auth, "/api-keys"),
        (stack.memory, "/memories"),
        (stack.memory, "/search"),
        (stack.memory, "/sessions/s/messages"),
        (stack.orchestrator, "/tasks"),
    ]


@pytest.mark.parametrize("announced", [True, False])
def test_an_oversized_body(stack: Stack, alice: Person, announced: bool) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 65_536] * 32

    for client, path in posts(stack):
        content = b"".join(pieces()) if announced else pieces()
        kind = "application/x-www-form-urlencoded" if path == "/token" else "application/json"
        answer = client.post(path, content=content, headers={**alice.token, "Content-Type": kind})
        assert answer.status_code == 413, path


def test_malformed_bodies(stack: Stack, alice: Person) -> None:
    for client, path in posts(stack):
        headers = {**alice.token, "Content-Type": "application/json"}
        if path != "/token":
            assert client.post(path, content=b'{"a": ', headers=headers).status_code == 400, path
        for body in (b"{}", b"[]", b""):
            answer = client.post(path, content=body, headers=headers)
            assert answer.status_code == 422, (path, body)
            assert answer.headers["Content-Type"] == "application/problem+json"


def test_what_is_not_there(stack: Stack, alice: Person) -> None:
    for client, path in [(stack.memory, "/memories"), (stack.orchestrator, "/tasks")]:
        assert client.get(f"{path}/{uuid.uuid4()}", headers=alice.token).status_code == 404
        assert client.get(f"{path}/17", headers=alice.token).status_code == 422
    for client in stack.clients():
        assert client.get("/nowhere", headers=alice.token).status_code == 404
        assert client.delete("/health", headers=alice.token).status_code == 405


def test_openais_interface(stack: Stack, alice: Person) -> None:
    made = stack.auth.post(
        "/api-keys", json={"password": alice.password, "name": "e2e", "scopes": ["tasks"]}, headers=alice.token
    ).json()
    key = {"Authorization": f"Bearer {made['key']}"}
    asked = {"model": "echo", "messages": [{"role": "user", "content": "Which colour?"}]}
    answer = stack.orchestrator.post("/v1/chat/completions", json=asked, headers=key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].startswith("You asked: Which colour?")
    refused = stack.orchestrator.post("/v1/chat/completions", json={**asked, "model": "gpt-9"}, headers=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    # A key that may ask the model may not read memories, here neither.
    assert stack.memory.post("/search", json={"query": "a"}, headers=key).status_code == 403
    remembering = {"X-Swarm-Memory": "on", "X-Swarm-Session": "v1"}
    assert stack.orchestrator.post("/v1/chat/completions", json=asked, headers=key | remembering).status_code == 403

    remember(stack, alice.token, FACTS[0])
    asked["messages"] = [{"role": "user", "content": "Which color do I like best?"}]
    answer = stack.orchestrator.post("/v1/chat/completions", json=asked, headers=alice.token | remembering)
    said = answer.json()["choices"][0]["message"]["content"]
    assert FACTS[0] in said
    assert answer.headers["X-Swarm-Stored"] == "yes"
    session = stack.memory.get("/sessions/v1/messages", headers=alice.token).json()["messages"]
    assert [one["content"] for one in session] == ["Which color do I like best?", said]


def test_what_prometheus_asks_for(stack: Stack) -> None:
    """The processes of a service count together, for who knows the token of docker-compose.test.yml."""
    for client, service in zip(stack.clients(), ("auth", "memory", "orchestrator"), strict=True):
        assert client.get("/metrics").status_code == 401
        told = client.get("/metrics", headers={"Authorization": "Bearer e2e-metrics"}).text
        health = f'swarm_requests_total{{method="GET",route="/health",service="{service}",status="200"}}'
        assert health in told, told
