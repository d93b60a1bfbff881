from __future__ import annotations

import asyncio
import threading
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import neighbours
import pytest
from conftest_stores import execute
from neighbours import Answer, Neighbour, bearer, sent_by


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test leaves undone, the processes of the next ones would take over, and its places with it."""
    yield
    if "database" in request.fixturenames:
        ended = "DELETE FROM orchestrator.tasks WHERE worker IS NOT NULL"
        asyncio.run(execute(request.getfixturevalue("database"), ended))


@pytest.fixture
def auth() -> Iterator[Neighbour]:
    with Neighbour(neighbours.auth).running() as neighbour:
        yield neighbour


class Memory(Neighbour):
    """memory: knows what it was told, by user; a search finds all of it that may be found, the last first."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.texts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sessions: dict[str, list[dict[str, str]]] = defaultdict(list)

    def _answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        claims = sent_by(headers)
        assert claims["aud"] == ["memory"]  # never the user's own credential
        user = claims["sub"]
        path = path.partition("?")[0]
        if (method, path) == ("POST", "/memories"):
            self.texts[user].append({"id": str(uuid.uuid4()), "score": 0.9, **body})
            return 201, self.texts[user][-1]
        if path == "/search":
            wanted, unwanted = body.get("metadata", {}).items(), body.get("without", {}).items()
            found = [one for one in self.texts[user][::-1] if wanted <= one.get("metadata", {}).items()]
            found = [one for one in found if not unwanted & one.get("metadata", {}).items()]
            return 200, {"results": found[: body["top_k"]]}
        key = f"{user}{path}"
        if method == "POST":
            self.sessions[key].extend(body["messages"])
            return 201, {}
        return 200, {"messages": self.sessions[key]}


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory().running() as neighbour:
        assert isinstance(neighbour, Memory)
        yield neighbour


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    """The address of the model of tests/model_server, running."""
    import server  # here, as the tests that need no stores must do without it

    model = server.serve("127.0.0.1", 0)
    thread = threading.Thread(target=model.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{model.server_address[1]}/v1"
    model.shutdown()
    model.server_close()


@pytest.fixture
def words(model_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """So many words the slow model may say: none, until the test releases some."""
    import server

    allowed = threading.Semaphore(0)
    monkeypatch.setattr(server, "pause", allowed.acquire)
    yield allowed
    allowed.release(10_000)


@pytest.fixture
def received(model_url: str) -> list[dict[str, Any]]:
    """What the model was asked since the test began."""
    import server

    server.received.clear()
    return server.received


@pytest.fixture
def app(auth: Neighbour, memory: Memory, model_url: str) -> Callable[..., Any]:
    def make(stores: dict[str, Any], **changes: Any) -> Any:
        from orchestrator.app import create_app
        from orchestrator.settings import OrchestratorSettings

        defaults = {"auth_url": auth.url, "memory_url": memory.url, "model_url": model_url, "model_name": "echo"}
        defaults["models"] = "flaky, broken, slow, silent, cut, garbage, empty, caller, no-such-model"
        return create_app(OrchestratorSettings(**{**defaults, **stores, **changes}))

    return make


@pytest.fixture
async def http(
    app: Callable[..., Any], database: dict[str, Any], started: Callable[..., Awaitable[httpx.AsyncClient]]
) -> httpx.AsyncClient:
    return await started(app(database))


@pytest.fixture
def user() -> dict[str, str]:
    """Somebody whom nobody else is."""
    return bearer(f"user-{uuid.uuid4()}")


@pytest.fixture
def other() -> dict[str, str]:
    return bearer(f"user-{uuid.uuid4()}")
