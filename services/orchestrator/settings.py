"""Which settings does ``orchestrator`` take, besides those of ``common.settings``?

======================  ====================  ===================================================
AUTH_URL                http://auth:8005      where ``auth`` answers
MEMORY_URL              http://memory:8003    where ``memory`` answers
MODEL_URL               http://model:8000/v1  an OpenAI-compatible endpoint (vLLM in production)
MODEL_NAME              default               the model asked when a task names none
                                              (``vllm serve … --served-model-name default``)
MODELS                                        names of others at MODEL_URL that may be asked for, with commas
MAX_TOKENS              4096                  no answer is longer
CONTEXT_TOKENS          8192                  of memories, session and prompt together; the oldest are left out first
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
    models: str = ""
    max_tokens: int = Field(default=4096, ge=1)
    context_tokens: int = Field(default=8192, ge=256)
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

    @property
    def allowed(self) -> list[str]:
        """The models that may be asked for."""
        others = [name.strip() for name in self.models.split(",")]
        return [self.model_name, *(name for name in others if name and name != self.model_name)]
