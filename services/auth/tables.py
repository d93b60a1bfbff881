"""What does ``auth`` keep in PostgreSQL? ``common.migrations`` makes it so."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import DateTime, ForeignKey, LargeBinary, MetaData, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """The tables of ``auth``, in a schema of that name."""

    metadata = MetaData(schema="auth")
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, str]: JSONB, bytes: LargeBinary}  # noqa: RUF012


class User(Table):
    """Somebody who can log in. ``username`` is in lower case."""

    __tablename__ = "users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    is_admin: Mapped[bool] = mapped_column(server_default=text("false"))
    disabled_at: Mapped[datetime | None]


class ApiKey(Table):
    """A key of a user. Only its digest is kept; ``hint`` is its beginning, to tell keys apart."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)
    name: Mapped[str]
    hint: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)
    scopes: Mapped[str] = mapped_column(server_default="memory:read memory:write tasks")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SigningKey(Table):
    """A key that signs, or signed, access tokens, or will: see ``auth.keyring``."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    private_key: Mapped[bytes]  # encrypted: see auth.signing
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class DeletedUser(Table):
    """Somebody whose data the other services must delete; they read this."""

    __tablename__ = "deleted_users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())
