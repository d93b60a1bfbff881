"""What does ``memory`` answer to?"""

import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Path, Query, Response
from pydantic import BaseModel, Field

from common import audit, calls, janitor, redis_store, service
from common.callers import with_scope
from common.identity import Identities, Identity
from common.pages import After, Limit, following
from common.postgres import Database
from common.problems import Problem
from common.texts import Label, Name, Text
from memory.embedding import Vector, least_score, load
from memory.semantic import Found, KeptMemory, Memories
from memory.sessions import LONGEST, KeptSession, Message, Sessions
from memory.settings import MemorySettings, Quota
from memory.tables import Table


class NewMessages(BaseModel):
    """What was said, in order: kept all or not at all."""

    messages: list[Message] = Field(min_length=1, max_length=50)


class SessionLength(BaseModel):
    """How many messages a session has now."""

    session: str
    length: int


class SessionList(BaseModel):
    """Sessions by name. With ``next`` as ``after`` the next ones are given; none: there are no more."""

    sessions: list[KeptSession]
    next: str | None


class SessionMessages(BaseModel):
    """The last messages of a session, oldest first."""

    session: str
    messages: list[Message]


class NewMemory(BaseModel):
    """A text to keep."""

    text: Text
    metadata: dict[Name, Label] = Field(default_factory=dict, max_length=20)


class Search(BaseModel):
    """What to look for: ``top_k`` memories near in meaning to ``query``, that have all this ``metadata`` and nothing of
    what they are to be ``without``. If they must be ``relevant``, what has nothing to do with it is left out."""

    query: Text
    top_k: int = Field(default=5, ge=1, le=50)
    metadata: dict[Name, Label] = Field(default_factory=dict, max_length=20)
    without: dict[Name, Label] = Field(default_factory=dict, max_length=20)
    relevant: bool = False


class Results(BaseModel):
    """What a search found, nearest first."""

    results: list[Found]


class Page(BaseModel):
    """Memories, newest first. With ``next`` as ``after`` the next ones are given; none: there are no more."""

    memories: list[KeptMemory]
    next: str | None


class Deleted(BaseModel):
    """How many memories were forgotten."""

    deleted: int


All = Query(alias="metadata", default_factory=list, max_length=20, description="NAME:VALUE, all of which must be so")
Filter = Annotated[list[str], All]
Reader = Annotated[Identity, with_scope("memory:read")]
Writer = Annotated[Identity, with_scope("memory:write")]
SessionName = Annotated[Name, Path()]

type Embed = Callable[[str], Awaitable[Vector]]


def create_app(settings: MemorySettings) -> FastAPI:
    """The application, as ``settings`` say. Connects to nothing before it starts."""
    database = Database(settings, "memory", Table.metadata)
    redis = redis_store.connect(settings)
    auth = calls.client(settings.auth_url)
    embedding = load()
    embeddings = CapacityLimiter(1)  # it keeps one core busy
    memories = Memories(database, Quota(settings.memories_per_user, settings.bytes_per_user))
    kept_sessions = Sessions(
        database, settings.session_ttl_seconds, Quota(settings.sessions_per_user, settings.bytes_per_user)
    )
    identities = Identities("memory", auth, redis)
    app = service.create(
        "memory",
        settings,
        resources=[
            redis, database.running(), auth,
            janitor.running(
                database, {"index": memories.index_large}, sessions=kept_sessions.forget_old,
                users=memories.forget_deleted_users,
            ),
        ],
        checks={"postgres": database.check, "redis": redis.ping},
        identify=identities.identify,
    )  # fmt: skip

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

    @app.get("/sessions", tags=["session memory"])
    async def list_sessions(user: Reader, after: Name | None = None, limit: Limit = 50) -> SessionList:
        kept = await kept_sessions.page(user.user_id, after or "", limit)
        return SessionList(sessions=list(kept), next=kept[-1].session if len(kept) == limit else None)

    @app.delete("/sessions/{session}", status_code=HTTPStatus.NO_CONTENT, tags=["session memory"])
    async def clear(session: SessionName, user: Writer) -> None:
        if not await kept_sessions.clear(user.user_id, session):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such session.")
        audit.record("session deleted", user, target=session)

    _add_memories(app, memories, embed)
    return app


def _add_memories(app: FastAPI, memories: Memories, embed: Embed) -> None:
    @app.post("/memories", status_code=HTTPStatus.CREATED, tags=["semantic memory"])
    async def add(new: NewMemory, user: Writer, response: Response) -> KeptMemory:
        """Each text is kept once: 200 and the memory when it is there already, with the metadata that come now."""
        kept, is_new = await memories.add(user.user_id, new.text, new.metadata, await embed(new.text))
        if not is_new:
            response.status_code = HTTPStatus.OK
        return kept

    @app.get("/memories", tags=["semantic memory"])
    async def page(user: Reader, after: After, metadata: Filter, limit: Limit = 50) -> Page:
        kept = await memories.page(user.user_id, _filter(metadata), after, limit)
        return Page(memories=list(kept), next=following(kept, limit))

    @app.delete("/memories", tags=["semantic memory"])
    async def delete_all(user: Writer, metadata: Filter) -> Deleted:
        """All, or all that have this metadata."""
        deleted = await memories.delete(user.user_id, _filter(metadata))
        audit.record("memories deleted", user, deleted=deleted)
        return Deleted(deleted=deleted)

    @app.get("/memories/{memory_id}", tags=["semantic memory"])
    async def get(memory_id: uuid.UUID, user: Reader) -> KeptMemory:
        kept = await memories.get(user.user_id, memory_id)
        if kept is None:
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such memory.")
        return kept

    @app.delete("/memories/{memory_id}", status_code=HTTPStatus.NO_CONTENT, tags=["semantic memory"])
    async def delete(memory_id: uuid.UUID, user: Writer) -> None:
        if not await memories.delete(user.user_id, {}, memory_id):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such memory.")
        audit.record("memory deleted", user, target=memory_id)

    @app.post("/search", tags=["semantic memory"])
    async def search(wanted: Search, user: Reader) -> Results:
        vector = await embed(wanted.query)
        least = least_score(vector) if wanted.relevant else -1
        found = await memories.search(user.user_id, vector, wanted.top_k, wanted.metadata, wanted.without)
        return Results(results=[one for one in found if one.score >= least])


def _filter(metadata: list[str]) -> dict[str, str]:
    pairs = [one.partition(":") for one in metadata]
    if any(not colon or "\x00" in one for one, (_, colon, _) in zip(metadata, pairs, strict=True)):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "A filter is NAME:VALUE.")
    return {name: value for name, _, value in pairs}
