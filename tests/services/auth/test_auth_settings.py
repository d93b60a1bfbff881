from __future__ import annotations

import secrets

import pytest

from auth.settings import AuthSettings
from common.settings import load

REST = {"POSTGRES_PASSWORD": "a", "REDIS_PASSWORD": "b"}


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "Field required"),
        ("short", "must have at least 32 characters"),
        ("change-me-change-me-change-me-change-me", "is the value of an example"),
        ("this-is-an-EXAMPLE-of-a-secret-0123456789", "is the value of an example"),
        ("0" * 64, "repeats itself"),
    ],
)
def test_a_weak_secret_is_refused(monkeypatch: pytest.MonkeyPatch, secret: str, why: str) -> None:
    for name, value in (REST | {"AUTH_SECRET": secret}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"AUTH_SECRET: {why}") as refused:
        load(AuthSettings)
    assert not secret or secret not in str(refused.value)


def test_a_strong_secret_is_taken_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(32)
    for name, value in (REST | {"AUTH_SECRET": secret}).items():
        monkeypatch.setenv(name, value)
    assert secret not in repr(load(AuthSettings))
