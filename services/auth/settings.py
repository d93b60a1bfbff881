"""Which settings does ``auth`` take, besides those of ``common.settings``? docs/services.md says what they mean."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from common.settings import PostgresSettings, RedisSettings

SHORTEST_SECRET = 32
EXAMPLES = ("change-me", "changeme", "change_me", "example", "secret-here", "password")


class AuthSettings(PostgresSettings, RedisSettings):
    """What ``auth`` is told."""

    auth_secret: SecretStr
    access_token_seconds: int = Field(default=900, ge=1, le=86_400)
    signing_key_seconds: int = Field(default=86_400, ge=1)
    rate_limit_per_minute: int = Field(default=10, ge=1)
    registration: Literal["open", "local", "closed"] = "local"
    api_keys_per_user: int = Field(default=20, ge=1)
    api_key_days: int = Field(default=90, ge=1, le=366)

    @field_validator("auth_secret")
    @classmethod
    def _strong(cls, secret: SecretStr) -> SecretStr:
        value = secret.get_secret_value()
        if len(value) < SHORTEST_SECRET:
            raise ValueError(f"must have at least {SHORTEST_SECRET} characters: openssl rand -hex 32 makes one")
        if any(example in value.lower() for example in EXAMPLES):
            raise ValueError("is the value of an example: openssl rand -hex 32 makes a real one")
        if len(set(value)) < 8:
            raise ValueError("repeats itself: openssl rand -hex 32 makes a strong one")
        return secret
