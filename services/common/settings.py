"""Which settings does every service take from its environment?

What one service alone takes stands in its own ``settings.py``, and what each means in docs/services.md. An empty
variable counts as not set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.proxies import parted


class ServiceSettings(BaseSettings):
    """What every service is told."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    request_seconds: float = Field(default=10, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    trusted_proxies: str = ""
    metrics_token: SecretStr = SecretStr("")

    @property
    def longest_seconds(self) -> float:
        """How long a request may take."""
        return self.request_seconds

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        parted(proxies)
        return proxies


class PostgresSettings(ServiceSettings):
    """Where PostgreSQL is."""

    postgres_host: str = "postgres"
    postgres_port: int = Field(default=5432, ge=1, le=65535)
    postgres_user: str = "swarm"
    postgres_password: SecretStr
    postgres_db: str = "swarm"


class RedisSettings(ServiceSettings):
    """Where Redis is."""

    redis_host: str = "redis"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_user: str = "default"
    redis_password: SecretStr


def load[S: ServiceSettings](settings: type[S]) -> S:
    """Read ``settings`` from the environment; ``NAME_FILE`` there is a file that holds what ``NAME`` would.

    Ends the process with status 1 and one sentence for each variable that is missing or wrong. The
    sentence names the variable and what would be accepted, never the value: it may be a secret.
    """
    given = {}
    for name in settings.model_fields:
        if path := os.environ.get(variable := f"{name.upper()}_FILE"):
            try:
                given[name] = Path(path).read_text().strip()
            except OSError as error:
                raise SystemExit(f"Refusing to start.\n{variable}: cannot be read ({error.strerror})") from None
    try:
        return settings(**given)
    except ValidationError as error:
        sentences = [
            f"{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False, include_context=False, include_url=False)
        ]
    raise SystemExit("Refusing to start.\n" + "\n".join(sentences))
