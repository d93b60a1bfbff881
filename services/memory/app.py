"""What does ``memory`` answer to?"""

import uuid
from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Path, Query
from pydantic import BaseModel, Field

from common import calls, janitor, redis_store, service
from common.callers import Callers
from common.identity import Identities, Identity
from common.postgres import Database
from common.problems import Problem
from common.texts import Label, Name, Text
from memory import semantic, sessions
from memory.embedding import Vector, load
from memory.semantic import Memories
from memory.sessions import LONGEST, Message, Sessions
from memory.settings import MemorySettings
from memory.tables import Table


class NewMessages(BaseModel):
    """What was said, in order: kept all or not at all."""

    messages: list[Message] = Field(min_length=1, max_length=50)


class SessionLength(BaseModel):
    """How many messages a session has now."""

    session: str
    length: int


class SessionMessages(BaseModel):
    """The last messages of a session, oldest first."""

    session: str
    messages: list[Message]


class NewMemory(BaseModel):
    """A text to keep."""

    text: Text
    metadata: dict[Name, Label] = Field(default_factory=dict, max_length=20)


class KeptMemory(BaseModel):
    """A text that was kept."""

    id: uuid.UUID
    text: str
    metadata: dict[str, str]
    created_at: datetime


class Search(BaseModel):
    """What to look for: ``top_k`` memories that are near in meaning to ``query``."""

    query: Text
    top_k: int = Field(default=5, ge=1, le=50)


class Found(KeptMemory):
    """A memory, and how near it is: cosine similarity, 1 at most."""

    score: float


class Results(BaseModel):
    """What a search found, nearest first."""

    results: list[Found]


SessionName = Annotated[Name, Path()]


def create_app(settings: MemorySettings) -> FastAPI:
    """The application, as ``settings`` say. Connects to nothing before it starts."""
    database = Database(settings, "memory", Table.metadata)
    redis = redis_store.connect(settings)
    auth = calls.client(settings.auth_url)
    embedding = load()
    embeddings = CapacityLimiter(1)  # it keeps one core busy
    memories = Memories(database, semantic.Quota(settings.memories_per_user, settings.bytes_per_user))
    kept_sessions = Sessions(
        database, settings.session_ttl_seconds, sessions.Quota(settings.sessions_per_user, settings.bytes_per_user)
    )
    app = service.create(
        "memory",
        settings,
        resources=[
            redis, database.running(), auth,
            janitor.running(kept_sessions.forget_old, memories.forget_deleted_users),
        ],
        checks={"postgres": database.check, "redis": redis.ping},
    )  # fmt: skip
    callers = Callers(Identities("memory", auth, redis).identify)
    Reader = Annotated[Identity, callers.with_scope("memory:read")]  # noqa: N806 - a type
    Writer = Annotated[Identity, callers.with_scope("memory:write")]  # noqa: N806 - a type

    async def embed(text: str) -> Vector:
        vector = await to_thread.run_sync(embedding.of, text, limiter=embeddings)
        if vector is None:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The text has no words that mean anything.")
        return vector

    @app.post("/sessions/{session}/messages", status_code=HTTPStatus.CREATED, tags=["session memory"])
    async def append(session: SessionName, new: NewMessages, user: Writer) -> SessionLength:
        length = await kept_sessions.append(user.user_id, session, new.messages)
        return SessionLength(session=session, length=length)

    @app.get("/sessions/{session}/messages", tags=["session memory"])
    async def read(
        session: SessionName, user: Reader, last: Annotated[int, Query(ge=1, le=LONGEST)] = 50
    ) -> SessionMessages:
        return SessionMessages(session=session, messages=await kept_sessions.last(user.user_id, session, last))

    @app.delete("/sessions/{session}", status_code=HTTPStatus.NO_CONTENT, tags=["session memory"])
    async def clear(session: SessionName, user: Writer) -> None:
        if not await kept_sessions.clear(user.user_id, session):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such session.")

    @app.post("/memories", status_code=HTTPStatus.CREATED, tags=["semantic memory"])
    async def add(new: NewMemory, user: Writer) -> KeptMemory:
        kept = await memories.add(user.user_id, new.text, new.metadata, await embed(new.text))
        return KeptMemory(**asdict(kept))

    @app.get("/memories/{memory_id}", tags=["semantic memory"])
    async def get(memory_id: uuid.UUID, user: Reader) -> KeptMemory:
        kept = await memories.get(user.user_id, memory_id)
        if kept is None:
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such memory.")
        return KeptMemory(**asdict(kept))

    @app.delete("/memories/{memory_id}", status_code=HTTPStatus.NO_CONTENT, tags=["semantic memory"])
    async def delete(memory_id: uuid.UUID, user: Writer) -> None:
        if not await memories.delete(user.user_id, memory_id):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such memory.")

    @app.post("/search", tags=["semantic memory"])
    async def search(wanted: Search, user: Reader) -> Results:
        found = await memories.search(user.user_id, await embed(wanted.query), wanted.top_k)
        return Results(results=[Found(**asdict(kept), score=score) for kept, score in found])

    return app
