"""What does ``memory`` keep in PostgreSQL? ``common.migrations`` makes it so."""

from __future__ import annotations

import uuid
from datetime import datetime

from pgvector.sqlalchemy import Vector
from sqlalchemy import BigInteger, DateTime, ForeignKeyConstraint, Index, MetaData, false, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from memory.embedding import DIMENSIONS


class Table(DeclarativeBase):
    """The tables of ``memory``, in a schema of that name."""

    metadata = MetaData(schema="memory")
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, str]: JSONB}  # noqa: RUF012


class Memory(Table):
    """A text of a user, and where it lies in meaning.

    A search reads all memories of one user, and so is exact. Only those of users who have very many are brought into an
    index of vectors, which is approximate and knows nothing of users: ``indexed`` says which (``memory.semantic``).
    """

    __tablename__ = "memories"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID]
    text: Mapped[str] = mapped_column()
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    embedding: Mapped[list[float]] = mapped_column(Vector(DIMENSIONS))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    indexed: Mapped[bool] = mapped_column(server_default=false())

    __table_args__ = (
        Index("memories_of_user", "user_id", "created_at"),
        Index("memories_by_text", "user_id", func.md5(text)),
        Index("memories_not_indexed", "user_id", postgresql_where=~indexed),
        Index(
            "memories_by_meaning",
            "embedding",
            postgresql_using="hnsw",
            postgresql_where=indexed,
            postgresql_ops={"embedding": "vector_cosine_ops"},
        ),
    )


class Usage(Table):
    """How much a user's memories are."""

    __tablename__ = "usage"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    memories: Mapped[int]
    bytes: Mapped[int] = mapped_column(BigInteger)


class Session(Table):
    """A session of a user. Its row is locked while something is added, so that numbers follow each other."""

    __tablename__ = "sessions"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    next_number: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]

    __table_args__ = (Index("sessions_by_end", "expires_at"),)


class Said(Table):
    """A message of a session."""

    __tablename__ = "messages"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    session: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    role: Mapped[str]
    content: Mapped[str]

    __table_args__ = (ForeignKeyConstraint([user_id, session], [Session.user_id, Session.name], ondelete="CASCADE"),)
