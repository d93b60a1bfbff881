"""Which settings does ``memory`` take, besides those of ``common.settings``?

=====================  ================  ===================================================
AUTH_URL               http://auth:8005  where ``auth`` answers
SESSION_TTL_SECONDS    86400             a session is forgotten this long after its last message
=====================  ================  ===================================================
"""

from __future__ import annotations

from pydantic import Field

from common.settings import PostgresSettings, RedisSettings, ServiceSettings


class MemorySettings(ServiceSettings, PostgresSettings, RedisSettings):
    """What ``memory`` is told."""

    auth_url: str = "http://auth:8005"
    session_ttl_seconds: int = Field(default=86_400, ge=1)
