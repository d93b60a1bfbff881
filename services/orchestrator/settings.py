"""Which settings does ``orchestrator`` take, besides those of ``common.settings``? docs/services.md explains them."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from common.settings import PostgresSettings, RedisSettings


class OrchestratorSettings(PostgresSettings, RedisSettings):
    """What ``orchestrator`` is told."""

    auth_url: str = "http://auth:8005"
    memory_url: str = "http://memory:8003"
    model_url: str = "http://model:8000/v1"
    model_name: str = "default"
    models: str = ""
    model_keys: SecretStr = SecretStr("")
    max_tokens: int = Field(default=4096, ge=1)
    context_tokens: int = Field(default=8192, ge=256)
    tokens_per_user_day: int = Field(default=10_000_000, ge=0)
    model_api_key: SecretStr = SecretStr("")
    model_timeout_seconds: float = Field(default=120, gt=0)
    model_concurrency: int = Field(default=16, ge=1)
    tasks_per_user: int = Field(default=32, ge=1)
    task_ttl_seconds: int = Field(default=604_800, ge=1)

    @field_validator("model_url")
    @classmethod
    def _http(cls, url: str) -> str:
        return _addresses(url)

    @field_validator("models")
    @classmethod
    def _endpoints(cls, models: str) -> str:
        for name, url in _pairs(models):
            if not name:
                raise ValueError("must be names, or NAME=URL, with commas")
            if url is not None:
                _addresses(url)
        return models

    @field_validator("model_keys")
    @classmethod
    def _keys(cls, keys: SecretStr, info: ValidationInfo) -> SecretStr:
        given = _pairs(keys.get_secret_value())
        if any(not name or not key for name, key in given):
            raise ValueError("must be NAME=KEY, with commas")
        if {name for name, _ in given} - {name for name, url in _pairs(info.data.get("models", "")) if url is not None}:
            raise ValueError("must be of models that have an address of their own in MODELS")
        return keys

    @property
    def longest_seconds(self) -> float:
        """How long a request may take: the model's time, and that of all the rest."""
        return self.model_timeout_seconds + self.request_seconds

    @property
    def endpoints(self) -> dict[str, tuple[str, str]]:
        """The models that may be asked for: the addresses of each, and what opens it. A key goes nowhere else."""
        keys = dict(_pairs(self.model_keys.get_secret_value()))
        usual = (self.model_url, self.model_api_key.get_secret_value())
        others = {
            name: usual if url is None else (_addresses(url), keys.get(name) or "") for name, url in _pairs(self.models)
        }
        return {self.model_name: usual, **others}


def _pairs(said: str) -> list[tuple[str, str | None]]:
    """The ``NAME=VALUE`` in ``said``, with commas; no value where there is only a name."""
    parts = (part.strip().partition("=") for part in said.split(",") if part.strip())
    return [(name.strip(), value.strip() if equals else None) for name, equals, value in parts]


def _addresses(urls: str) -> str:
    if not urls.strip() or any(not url.startswith(("http://", "https://")) for url in urls.split()):
        raise ValueError("must begin with http:// or https://")
    return " ".join(url.rstrip("/") for url in urls.split())
