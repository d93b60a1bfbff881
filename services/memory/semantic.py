"""Which memories of a user are near in meaning?"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from sqlalchemy import Text, Update, cast, delete, func, insert, select, text, union_all, update
from sqlalchemy.dialects.postgresql import insert as upsert

from common.pages import Place, paged
from common.postgres import Database
from common.problems import Problem
from memory.embedding import Vector
from memory.settings import Quota
from memory.tables import Memory, Usage


@dataclass(frozen=True)
class KeptMemory:
    """A text that was kept."""

    id: uuid.UUID
    text: str
    metadata: dict[str, str]
    created_at: datetime


@dataclass(frozen=True)
class Found(KeptMemory):
    """A memory, and how near it is: cosine similarity, 1 at most."""

    score: float


EXACT = 10_000
"""Who has more memories than this is answered from the index, and from what is not in it yet."""

INDEXED_AT_ONCE, INDEXED_IN_A_ROW = 50, 200

# Looks on, in the order of nearness, until there are enough of this user's.
_THOROUGHLY = text(
    "SELECT set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '100', true)"
)

_COLUMNS = (Memory.id, Memory.text, Memory.metadata_, Memory.created_at)


class Memories:
    """The memories of all users. Every question names the user; another's memory does not exist for it."""

    def __init__(self, database: Database, quota: Quota) -> None:
        self._database = database
        self._quota = quota
        self._large: frozenset[uuid.UUID] = frozenset()

    async def add(
        self, user_id: uuid.UUID, text: str, metadata: dict[str, str], vector: Vector
    ) -> tuple[KeptMemory, bool]:
        """Keep ``text`` once, with the last ``metadata``: the memory, and whether it is new. Over the quota 409."""
        size, most = _size(text, metadata), self._quota
        more = (
            upsert(Usage)
            .values(user_id=user_id, memories=1, bytes=size)
            .on_conflict_do_update(
                index_elements=[Usage.user_id],
                set_={"memories": Usage.memories + 1, "bytes": Usage.bytes + size},
                where=(Usage.memories < most.count) & (Usage.bytes + size <= most.bytes),
            )
            .returning(Usage.memories)
        )
        new = insert(Memory).values(id=uuid.uuid4(), user_id=user_id, text=text, metadata_=metadata, embedding=vector)
        same = select(*_COLUMNS).where(Memory.user_id == user_id, func.md5(Memory.text) == func.md5(text))
        if (row := await self._database.row(same.limit(1))) and row.metadata == metadata:
            return KeptMemory(*row), False
        async with self._database.begin() as connection:
            # This locks the row, so of several who add at once each sees what the one before has added.
            if (await connection.execute(more)).one_or_none() is None:
                sentence = f"You may have {most.count} memories of {most.bytes} bytes in all: delete some."
                raise Problem(HTTPStatus.CONFLICT, sentence)
            if row := (await connection.execute(same.limit(1))).one_or_none():
                await connection.execute(self._less(user_id, 1, _size(text, row.metadata)))
                change = update(Memory).where(Memory.id == row.id).values(metadata_=metadata)
                return KeptMemory(*(await connection.execute(change.returning(*_COLUMNS))).one()), False
            return KeptMemory(*(await connection.execute(new.returning(*_COLUMNS))).one()), True

    def _less(self, user_id: uuid.UUID, count: int, size: int) -> Update:
        less = {"memories": Usage.memories - count, "bytes": Usage.bytes - size}
        return update(Usage).where(Usage.user_id == user_id).values(**less)

    async def page(
        self, user_id: uuid.UUID, metadata: dict[str, str], after: Place | None, count: int
    ) -> Sequence[KeptMemory]:
        """The next ``count`` memories with this ``metadata``, newest first; ``after`` the last of the page before."""
        mine = select(*_COLUMNS).where(Memory.user_id == user_id, Memory.metadata_.contains(metadata))
        return [KeptMemory(*row) for row in await self._database.rows(paged(mine, Memory, after, count))]

    async def delete(self, user_id: uuid.UUID, metadata: dict[str, str], *only: uuid.UUID) -> int:
        """Forget all memories (or ``only`` these) that have this ``metadata``. Returns how many they were."""
        size = func.octet_length(Memory.text) + func.octet_length(cast(Memory.metadata_, Text))
        these = delete(Memory).where(Memory.user_id == user_id, Memory.metadata_.contains(metadata))
        these = these.where(Memory.id.in_(only)) if only else these
        gone = these.returning(size.label("size")).cte("gone")
        async with self._database.begin() as connection:
            count, bytes_ = (
                await connection.execute(select(func.count(), func.sum(gone.c.size)).select_from(gone))
            ).one()
            if count:
                await connection.execute(self._less(user_id, count, bytes_))
        return int(count)

    async def get(self, user_id: uuid.UUID, memory_id: uuid.UUID) -> KeptMemory | None:
        """The memory, if ``user_id`` has it."""
        statement = select(*_COLUMNS).where(Memory.id == memory_id, Memory.user_id == user_id)
        row = await self._database.row(statement)
        return None if row is None else KeptMemory(*row)

    async def search(
        self, user_id: uuid.UUID, vector: Vector, top_k: int, metadata: dict[str, str], without: dict[str, str]
    ) -> Sequence[Found]:
        """The ``top_k`` memories with this ``metadata``, and nothing of that which they are to be ``without``, that are
        nearest to ``vector``, nearest first."""
        distance = Memory.embedding.cosine_distance(vector).label("distance")
        unwanted = (~Memory.metadata_.contains({name: value}) for name, value in without.items())
        mine = (Memory.user_id == user_id, Memory.metadata_.contains(metadata), *unwanted)
        nearest = select(*_COLUMNS, distance).where(*mine).order_by(distance).limit(top_k)
        rows: Sequence[Any] = ()
        if user_id in self._large:
            parts = (nearest.where(Memory.indexed).subquery(), nearest.where(~Memory.indexed).subquery())
            both = union_all(*(select(part) for part in parts)).order_by("distance").limit(top_k)
            async with self._database.begin() as connection:
                await connection.execute(_THOROUGHLY)
                rows = (await connection.execute(both)).all()
        if len(rows) < top_k:
            rows = await self._database.rows(nearest.order_by(Memory.id))
        return [Found(*row[:4], 1 - float(row[4])) for row in rows]

    async def index_large(self) -> None:
        """Know who has so many memories that the index must help, and bring theirs into it, some thousand at a time."""
        large = select(Usage.user_id).where(Usage.memories > EXACT)
        async with self._database.connect() as connection:
            self._large = frozenset((await connection.execute(large)).scalars())
            some = select(Memory.id).where(Memory.user_id.in_(self._large), ~Memory.indexed).limit(INDEXED_AT_ONCE)
            statement = update(Memory).where(Memory.id.in_(some.with_for_update(skip_locked=True).scalar_subquery()))
            for _ in range(INDEXED_IN_A_ROW if self._large else 0):
                if not (await connection.execute(statement.values(indexed=True))).rowcount:
                    break

    async def forget_deleted_users(self) -> None:
        """Forget what belongs to users whom ``auth`` has deleted."""
        for table in ("memory.memories", "memory.usage"):
            await self._database.forget(table)


def _size(text: str, metadata: dict[str, str]) -> int:
    """What a memory counts against the quota: as PostgreSQL's own text of both, which migrations counted."""
    return len(text.encode()) + len(json.dumps(metadata, ensure_ascii=False).encode())
