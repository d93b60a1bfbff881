"""memory as a whole, on a real PostgreSQL with pgvector and a real Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from neighbours import Neighbour

TEXTS = (
    "My favourite colour is teal.",
    "The train to Oslo leaves at nine.",
    "Anna is allergic to peanuts.",
    "The server room is on the third floor.",
)


@pytest.fixture
def user() -> dict[str, str]:
    """Somebody whom nobody else is."""
    return {"Authorization": f"Bearer good-{uuid.uuid4()}"}


@pytest.fixture
def other() -> dict[str, str]:
    return {"Authorization": f"Bearer good-{uuid.uuid4()}"}


async def add(http: httpx.AsyncClient, user: dict[str, str], text: str, **metadata: str) -> dict[str, Any]:
    answer = await http.post("/memories", json={"text": text, "metadata": metadata}, headers=user)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def search(http: httpx.AsyncClient, user: dict[str, str], query: str, top_k: int = 5) -> list[dict[str, Any]]:
    answer = await http.post("/search", json={"query": query, "top_k": top_k}, headers=user)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("Which color do I like best?", 0),
        ("when is my departure by rail", 1),
        ("What food is dangerous for Anna?", 2),
        ("where are the machines?", 3),
    ],
)
async def test_search_by_meaning(http: httpx.AsyncClient, user: dict[str, str], query: str, first: int) -> None:
    for text in TEXTS:
        await add(http, user, text)
    found = await search(http, user, query)
    assert found[0]["text"] == TEXTS[first]
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert len(found) == 4
    assert [one["text"] for one in await search(http, user, query, top_k=1)] == [TEXTS[first]]


async def test_the_same_text_scores_one(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    await add(http, user, TEXTS[0])
    assert (await search(http, user, TEXTS[0]))[0]["score"] == pytest.approx(1, abs=1e-5)


async def test_add_get_delete(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    kept = await add(http, user, f"  {TEXTS[0]} ", source="test")
    assert (kept["text"], kept["metadata"]) == (TEXTS[0], {"source": "test"})
    assert (await http.get(f"/memories/{kept['id']}", headers=user)).json() == kept
    assert (await http.delete(f"/memories/{kept['id']}", headers=user)).status_code == 204
    assert (await http.get(f"/memories/{kept['id']}", headers=user)).status_code == 404
    assert (await http.delete(f"/memories/{kept['id']}", headers=user)).status_code == 404
    assert await search(http, user, TEXTS[0]) == []


async def test_anothers_memory_does_not_exist(
    http: httpx.AsyncClient, user: dict[str, str], other: dict[str, str]
) -> None:
    kept = await add(http, user, TEXTS[0])
    assert (await http.get(f"/memories/{kept['id']}", headers=other)).status_code == 404
    assert (await http.delete(f"/memories/{kept['id']}", headers=other)).status_code == 404
    assert await search(http, other, TEXTS[0]) == []
    assert (await http.get(f"/memories/{kept['id']}", headers=user)).status_code == 200


async def test_sessions(http: httpx.AsyncClient, user: dict[str, str], other: dict[str, str]) -> None:
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    answer = await http.post("/sessions/s-1/messages", json={"messages": said}, headers=user)
    assert (answer.status_code, answer.json()) == (201, {"session": "s-1", "length": 2})
    more = {"messages": [{"role": "user", "content": "bye"}]}
    assert (await http.post("/sessions/s-1/messages", json=more, headers=user)).json()["length"] == 3
    read = (await http.get("/sessions/s-1/messages", headers=user)).json()["messages"]
    assert read == [*said, *more["messages"]]
    assert (await http.get("/sessions/s-1/messages?last=1", headers=user)).json()["messages"] == more["messages"]
    assert (await http.get("/sessions/s-1/messages", headers=other)).json()["messages"] == []
    assert (await http.delete("/sessions/s-1", headers=other)).status_code == 404
    assert (await http.delete("/sessions/s-1", headers=user)).status_code == 204
    assert (await http.delete("/sessions/s-1", headers=user)).status_code == 404
    assert (await http.get("/sessions/s-1/messages", headers=user)).json()["messages"] == []


async def test_a_session_keeps_the_last_messages_in_order(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    for start in range(0, 520, 40):
        messages = [{"role": "user", "content": f"message {number}"} for number in range(start, start + 40)]
        await http.post("/sessions/long/messages", json={"messages": messages}, headers=user)
    read = (await http.get("/sessions/long/messages?last=500", headers=user)).json()["messages"]
    assert [one["content"] for one in read] == [f"message {number}" for number in range(20, 520)]


async def test_appends_at_once_are_each_kept_whole(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    pairs = [[{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": f"{n}"}] for n in range(20)]
    await asyncio.gather(*(http.post("/sessions/s/messages", json={"messages": one}, headers=user) for one in pairs))
    read = [one["content"] for one in (await http.get("/sessions/s/messages", headers=user)).json()["messages"]]
    assert sorted(read[::2], key=int) == [str(number) for number in range(20)]
    assert read[::2] == read[1::2]


async def test_a_session_is_forgotten(
    app: Callable[..., Any], database: dict[str, Any], user: dict[str, str],
    started: Callable[..., Awaitable[httpx.AsyncClient]], eventually: Callable[..., Awaitable[None]],
) -> None:  # fmt: skip
    http = await started(app(database, session_ttl_seconds=1))
    await http.post("/sessions/s/messages", json={"messages": [{"role": "user", "content": "hello"}]}, headers=user)

    async def forgotten() -> bool:
        return (await http.get("/sessions/s/messages", headers=user)).json()["messages"] == []

    await eventually(forgotten)


REQUESTS = [
    ("POST", "/memories", {"text": "a"}),
    ("GET", f"/memories/{uuid.uuid4()}", None),
    ("DELETE", f"/memories/{uuid.uuid4()}", None),
    ("POST", "/search", {"query": "a"}),
    ("POST", "/sessions/s/messages", {"messages": [{"role": "user", "content": "a"}]}),
    ("GET", "/sessions/s/messages", None),
    ("DELETE", "/sessions/s", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_nothing_without_a_credential(http: httpx.AsyncClient, method: str, path: str, body: Any) -> None:
    assert (await http.request(method, path, json=body)).status_code == 401
    expired = await http.request(method, path, json=body, headers={"Authorization": "Bearer bad"})
    assert (expired.status_code, expired.json()["detail"]) == (401, "The access token has expired.")


async def test_a_revoked_credential_is_refused_at_once(
    http: httpx.AsyncClient, auth: Neighbour, user: dict[str, str]
) -> None:
    await add(http, user, TEXTS[0])
    auth.answer = lambda *_: (401, {"detail": "The access token was revoked."})
    assert (await http.post("/search", json={"query": "a"}, headers=user)).status_code == 401


async def test_the_request_keeps_its_id_on_its_way(
    http: httpx.AsyncClient, auth: Neighbour, user: dict[str, str]
) -> None:
    await http.post("/search", json={"query": "a"}, headers={**user, "X-Request-ID": "abc-1"})
    assert auth.requests[-1][2]["x-request-id"] == "abc-1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/memories", {}),
        ("/memories", {"text": " "}),
        ("/memories", {"text": "x" * 16_001}),
        ("/memories", {"text": "a\x00b"}),
        ("/memories", {"text": "a", "metadata": {"bad key!": "x"}}),
        ("/memories", {"text": "a", "metadata": {"key": 3}}),
        ("/memories", {"text": "a", "metadata": {f"k{n}": "x" for n in range(21)}}),
        ("/search", {"query": ""}),
        ("/search", {"query": "a", "top_k": 0}),
        ("/search", {"query": "a", "top_k": 51}),
        ("/sessions/s/messages", {"messages": []}),
        ("/sessions/s/messages", {"messages": [{"role": "king", "content": "a"}]}),
        ("/sessions/bad%20name/messages", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_what_is_not_as_asked_for(http: httpx.AsyncClient, user: dict[str, str], path: str, body: Any) -> None:
    assert (await http.post(path, json=body, headers=user)).status_code == 422


async def test_ids_that_are_none(http: httpx.AsyncClient, user: dict[str, str]) -> None:
    assert (await http.get("/memories/17", headers=user)).status_code == 422
    assert (await http.get("/nowhere", headers=user)).status_code == 404
    assert (await http.put("/search", headers=user)).status_code == 405


async def test_a_body_over_the_limit(
    app: Callable[..., Any], database: dict[str, Any], user: dict[str, str],
    started: Callable[..., Awaitable[httpx.AsyncClient]],
) -> None:  # fmt: skip
    http = await started(app(database, max_body_bytes=2000))
    assert (await http.post("/memories", json={"text": "x" * 1900}, headers=user)).status_code == 201
    assert (await http.post("/memories", json={"text": "x" * 2000}, headers=user)).status_code == 413
