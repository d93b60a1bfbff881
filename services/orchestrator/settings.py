"""Which settings does ``orchestrator`` take, besides those of ``common.settings``?

======================  ====================  ===================================================
AUTH_URL                http://auth:8005      where ``auth`` answers
MEMORY_URL              http://memory:8003    where ``memory`` answers
MODEL_URL               http://model:8000/v1  an OpenAI-compatible endpoint (vLLM in production)
MODEL_NAME              default               the model asked when a task names none
                                              (``vllm serve … --served-model-name default``)
MODEL_API_KEY                                 sent to the model as a bearer token, when set
MODEL_TIMEOUT_SECONDS   120                   a task fails when its answer is not complete by then
MODEL_CONCURRENCY       16                    tasks that the model works at, side by side; others are queued
TASKS_PER_USER          32                    that are not done, and no more
TASK_TTL_SECONDS        604800                a task is forgotten this long after its last change
======================  ====================  ===================================================
"""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from common.settings import PostgresSettings, RedisSettings, ServiceSettings


class OrchestratorSettings(ServiceSettings, PostgresSettings, RedisSettings):
    """What ``orchestrator`` is told."""

    auth_url: str = "http://auth:8005"
    memory_url: str = "http://memory:8003"
    model_url: str = "http://model:8000/v1"
    model_name: str = "default"
    model_api_key: SecretStr = SecretStr("")
    model_timeout_seconds: float = Field(default=120, gt=0)
    model_concurrency: int = Field(default=16, ge=1)
    tasks_per_user: int = Field(default=32, ge=1)
    task_ttl_seconds: int = Field(default=604_800, ge=1)

    @field_validator("model_url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url.rstrip("/")
