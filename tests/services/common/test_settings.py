from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import PostgresSettings, RedisSettings, load


class Both(PostgresSettings, RedisSettings):
    pass


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Both.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_defaults_and_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "a")
    monkeypatch.setenv("REDIS_PASSWORD", "b")
    monkeypatch.setenv("MAX_BODY_BYTES", "2048")
    monkeypatch.setenv("REDIS_PORT", "")
    settings = load(Both)
    assert (settings.max_body_bytes, settings.redis_port, settings.postgres_host) == (2048, 6379, "postgres")


def test_a_missing_password_is_one_sentence_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "")
    monkeypatch.setenv("REDIS_PASSWORD", "b")
    with pytest.raises(SystemExit) as refused:
        load(Both)
    assert str(refused.value) == "Refusing to start.\nPOSTGRES_PASSWORD: Field required"


def test_a_wrong_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "a")
    monkeypatch.setenv("REDIS_PASSWORD", "b")
    monkeypatch.setenv("MAX_BODY_BYTES", "hunter2")
    with pytest.raises(SystemExit, match="MAX_BODY_BYTES: Input should be a valid integer") as refused:
        load(Both)
    assert "hunter2" not in str(refused.value)


def test_no_password_is_shown() -> None:
    settings = Both(postgres_password="hunter2", redis_password="hunter3")  # type: ignore[arg-type]
    assert "hunter" not in repr(settings)


def test_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Compose mounts them, so that no inspection of a container shows them."""
    (tmp_path / "postgres").write_text("from a file\n")
    monkeypatch.setenv("POSTGRES_PASSWORD", "")
    monkeypatch.setenv("REDIS_PASSWORD", "b")
    monkeypatch.setenv("POSTGRES_PASSWORD_FILE", str(tmp_path / "postgres"))
    assert load(Both).postgres_password.get_secret_value() == "from a file"
    monkeypatch.setenv("POSTGRES_PASSWORD_FILE", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="POSTGRES_PASSWORD_FILE: cannot be read"):
        load(Both)
