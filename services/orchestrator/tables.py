"""What does ``orchestrator`` keep in PostgreSQL? ``common.migrations`` makes it so."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Index, MetaData, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """The tables of ``orchestrator``, in a schema of that name."""

    metadata = MetaData(schema="orchestrator")
    type_annotation_map = {datetime: DateTime(timezone=True), list[dict[str, Any]]: JSONB}  # noqa: RUF012


class KeptTask(Table):
    """A task, and who works at it.

    ``token`` lets whoever works at it ask ``memory`` in the user's name; it is good for that service alone and for some
    minutes, and is gone when the task has ended.
    """

    __tablename__ = "tasks"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID]
    state: Mapped[str]
    prompt: Mapped[str]
    model: Mapped[str]
    session: Mapped[str | None]
    context: Mapped[list[dict[str, Any]]]
    answer: Mapped[str | None]
    error: Mapped[str | None]
    stored: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deadline: Mapped[datetime]
    worker: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    username: Mapped[str]
    token: Mapped[str | None]

    __table_args__ = (
        Index("tasks_of_user", "user_id", "created_at"),
        Index("tasks_by_change", "updated_at"),
        Index("tasks_unfinished", "created_at", postgresql_where=text("state IN ('queued', 'running')")),
        Index("tasks_held", "worker", postgresql_where=text("worker IS NOT NULL")),
    )


class Spent(Table):
    """How many tokens a user's models have read and written in a day (UTC)."""

    __tablename__ = "spent"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger)
