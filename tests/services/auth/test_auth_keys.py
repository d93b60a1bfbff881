"""Signing keys, API keys, credentials: the parts without stores."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from auth.api_keys import digest, new_key
from auth.caller import Caller
from auth.keyring import Dated, signer, still_good
from auth.passwords import Passwords
from auth.signing import Vault, generate
from common.identity import presented
from common.problems import Problem
from common.tokens import Claims

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = generate()


def test_a_sealed_key_opens_with_its_secret_only() -> None:
    sealed = Vault("a secret").seal(KEY)
    assert KEY.private.private_numbers().private_value.to_bytes(32) not in sealed
    opened = Vault("a secret").open(sealed)
    assert opened is not None
    assert opened.kid == KEY.kid
    assert Vault("another").open(sealed) is None
    assert Vault("a secret").open(b"what is this") is None


def test_what_jwks_shows_checks_what_the_key_signs_and_holds_nothing_private() -> None:
    token = jwt.encode({"a": 1}, KEY.private, algorithm="ES256", headers={"kid": KEY.kid})
    assert jwt.decode(token, jwt.PyJWK(KEY.jwk).key, algorithms=["ES256"]) == {"a": 1}
    assert set(KEY.jwk) == {"kty", "crv", "x", "y", "use", "alg", "kid"}


@given(ages=st.lists(st.integers(0, 10_000), max_size=6, unique=True), life=st.integers(1, 2000))
def test_a_key_is_good_until_the_last_token_it_may_have_signed_has_expired(ages: list[int], life: int) -> None:
    ages.sort()
    keys = [Dated(KEY, NOW - timedelta(seconds=age)) for age in ages]
    good = still_good(keys, NOW, timedelta(seconds=life))
    assert good == keys[: len(good)]  # the newest ones
    assert bool(good) == bool(keys)  # one signs always
    for index in range(1, len(keys)):
        stopped_signing = ages[index - 1]
        assert (keys[index] in good) == (stopped_signing < life)


@given(ages=st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True), ahead=st.integers(0, 50))
def test_what_signs_was_published_long_enough_if_anything_was(ages: list[int], ahead: int) -> None:
    ages.sort()
    keys = [Dated(KEY, NOW - timedelta(seconds=age)) for age in ages]
    found = signer(keys, NOW, timedelta(seconds=ahead))
    long_enough = [key for key, age in zip(keys, ages, strict=True) if age >= ahead]
    assert found is (long_enough[0] if long_enough else keys[-1])
    assert signer([], NOW, timedelta()) is None


def test_keys_are_long_alike_and_known_by_digest() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == len({digest(key) for key in keys}) == 100
    assert {len(key) for key in keys} == {len("vls_") + 43}


async def test_passwords() -> None:
    passwords = Passwords()
    kept = await passwords.hash("correct horse", "alice")
    assert kept.startswith("$argon2id$")
    assert await passwords.matches(kept, "correct horse")
    assert not await passwords.matches(kept, "correct horsf")
    assert not await passwords.matches(None, "nobody")  # the password of the hash that stands in for nobody's
    assert not passwords.outdated(kept)
    assert passwords.outdated(kept.replace("m=19456", "m=8192"))


def sent(headers: dict[str, str]) -> Request:
    """A request with these headers."""
    return Request({"type": "http", "headers": [(name.lower().encode(), of.encode()) for name, of in headers.items()]})


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"Authorization": "Bearer abc"}, ("token", "abc")),
        ({"Authorization": "bearer  abc "}, ("token", "abc")),
        ({"Authorization": "Bearer vls_x"}, ("api_key", "vls_x")),
        ({"X-API-Key": "vls_x"}, ("api_key", "vls_x")),
    ],
)
def test_credentials(headers: dict[str, str], found: tuple[str, str]) -> None:
    assert presented(sent(headers)) == (headers, *found)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic abc"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer abc", "X-API-Key": "vls_x"}, 400),
    ],
)
def test_what_is_no_credential(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Problem) as refused:
        presented(sent(headers))
    assert refused.value.status_code == status


def test_an_api_key_has_no_token() -> None:
    caller = Caller(Claims(uuid.uuid4(), "a", "b", 0.0, NOW, frozenset()), {}, "api_key", NOW)
    with pytest.raises(Problem) as refused:
        caller.token()
    assert refused.value.status_code == 403


def test_the_parts_of_a_jwk_are_text() -> None:
    assert json.loads(json.dumps(KEY.jwk)) == KEY.jwk
