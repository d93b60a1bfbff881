"""What does ``memory`` answer to?"""

import uuid
from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query, Request
from pydantic import BaseModel, Field

from common import calls, redis_store, service
from common.identity import Identity, identify
from common.postgres import Database
from common.problems import Problem
from common.texts import Label, Name, Text
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
    database = Database(settings, "memory", Table.metadata, extensions=["vector"])
    redis = redis_store.connect(settings)
    auth = calls.client(settings.auth_url)
    embedding = load()
    memories = Memories(database)
    sessions = Sessions(redis, settings.session_ttl_seconds)
    app = service.create(
        "memory",
        settings,
        resources=[redis, database.running(), auth],
        checks={"postgres": database.check, "redis": redis.ping},
    )

    async def caller(request: Request) -> Identity:
        return await identify(auth, request)

    Caller = Annotated[Identity, Depends(caller)]  # noqa: N806 - a type

    def embed(text: str) -> Vector:
        vector = embedding.of(text)
        if vector is None:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The text has no words that mean anything.")
        return vector

    @app.post("/sessions/{session}/messages", status_code=HTTPStatus.CREATED, tags=["session memory"])
    async def append(session: SessionName, new: NewMessages, user: Caller) -> SessionLength:
        length = await sessions.append(user.user_id, session, new.messages)
        return SessionLength(session=session, length=length)

    @app.get("/sessions/{session}/messages", tags=["session memory"])
    async def read(
        session: SessionName, user: Caller, last: Annotated[int, Query(ge=1, le=LONGEST)] = 50
    ) -> SessionMessages:
        return SessionMessages(session=session, messages=await sessions.last(user.user_id, session, last))

    @app.delete("/sessions/{session}", status_code=HTTPStatus.NO_CONTENT, tags=["session memory"])
    async def clear(session: SessionName, user: Caller) -> None:
        if not await sessions.clear(user.user_id, session):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such session.")

    @app.post("/memories", status_code=HTTPStatus.CREATED, tags=["semantic memory"])
    async def add(new: NewMemory, user: Caller) -> KeptMemory:
        kept = await memories.add(user.user_id, new.text, new.metadata, embed(new.text))
        return KeptMemory(**asdict(kept))

    @app.get("/memories/{memory_id}", tags=["semantic memory"])
    async def get(memory_id: uuid.UUID, user: Caller) -> KeptMemory:
        kept = await memories.get(user.user_id, memory_id)
        if kept is None:
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such memory.")
        return KeptMemory(**asdict(kept))

    @app.delete("/memories/{memory_id}", status_code=HTTPStatus.NO_CONTENT, tags=["semantic memory"])
    async def delete(memory_id: uuid.UUID, user: Caller) -> None:
        if not await memories.delete(user.user_id, memory_id):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such memory.")

    @app.post("/search", tags=["semantic memory"])
    async def search(wanted: Search, user: Caller) -> Results:
        found = await memories.search(user.user_id, embed(wanted.query), wanted.top_k)
        return Results(results=[Found(**asdict(kept), score=score) for kept, score in found])

    return app
