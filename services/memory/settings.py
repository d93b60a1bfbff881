"""Which settings does ``memory`` take, besides those of ``common.settings``? docs/services.md says what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from common.settings import PostgresSettings, RedisSettings


@dataclass(frozen=True)
class Quota:
    """How many memories or sessions one user may have, and of how many bytes in all."""

    count: int
    bytes: int


class MemorySettings(PostgresSettings, RedisSettings):
    """What ``memory`` is told."""

    auth_url: str = "http://auth:8005"
    session_ttl_seconds: int = Field(default=86_400, ge=1)
    sessions_per_user: int = Field(default=100, ge=1)
    memories_per_user: int = Field(default=10_000, ge=1)
    bytes_per_user: int = Field(default=33_554_432, ge=1)
