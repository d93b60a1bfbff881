"""Which memories of a user are near in meaning?"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from common.postgres import Database
from memory.embedding import Vector
from memory.tables import Memory


@dataclass(frozen=True)
class Remembered:
    """A memory."""

    id: uuid.UUID
    text: str
    metadata: dict[str, str]
    created_at: datetime


_COLUMNS = (Memory.id, Memory.text, Memory.metadata_, Memory.created_at)


class Memories:
    """The memories of all users. Every question names the user; another's memory does not exist for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user_id: uuid.UUID, text: str, metadata: dict[str, str], vector: Vector) -> Remembered:
        """Keep ``text``."""
        statement = (
            insert(Memory)
            .values(id=uuid.uuid4(), user_id=user_id, text=text, metadata_=metadata, embedding=vector)
            .returning(*_COLUMNS)
        )
        async with self._database.connect() as connection:
            return Remembered(*(await connection.execute(statement)).one())

    async def get(self, user_id: uuid.UUID, memory_id: uuid.UUID) -> Remembered | None:
        """The memory, if ``user_id`` has it."""
        statement = select(*_COLUMNS).where(Memory.id == memory_id, Memory.user_id == user_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else Remembered(*row)

    async def search(self, user_id: uuid.UUID, vector: Vector, top_k: int) -> Sequence[tuple[Remembered, float]]:
        """The ``top_k`` memories nearest to ``vector``, nearest first, each with its cosine similarity."""
        distance = Memory.embedding.cosine_distance(vector)
        statement = (
            select(*_COLUMNS, distance).where(Memory.user_id == user_id).order_by(distance, Memory.id).limit(top_k)
        )
        async with self._database.connect() as connection:
            rows = (await connection.execute(statement)).all()
        return [(Remembered(*row[:4]), 1 - float(row[4])) for row in rows]

    async def delete(self, user_id: uuid.UUID, memory_id: uuid.UUID) -> bool:
        """Forget the memory. False when ``user_id`` has no such."""
        statement = delete(Memory).where(Memory.id == memory_id, Memory.user_id == user_id).returning(Memory.id)
        async with self._database.connect() as connection:
            return (await connection.execute(statement)).one_or_none() is not None
