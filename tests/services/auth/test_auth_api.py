"""auth as a whole, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
import jwt
import pytest
from conftest_stores import drift, execute, migrated

from auth import admin
from auth.app import create_app
from auth.settings import AuthSettings
from common import tokens

SECRET = secrets.token_hex(32)
PASSWORD = "correct horse"

type Start = Callable[..., Awaitable[httpx.AsyncClient]]


def app(stores: dict[str, Any], **changes: Any) -> Any:
    return create_app(AuthSettings(**{"auth_secret": SECRET, "rate_limit_per_minute": 1000, **stores, **changes}))


@pytest.fixture(autouse=True)
def refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is answered late to those who guess, of whom this is none."""
    monkeypatch.setattr("common.callers.HELD_SECONDS", 0)


@pytest.fixture
async def auth(database: dict[str, Any], started: Start) -> httpx.AsyncClient:
    return await started(app(database))


def name() -> str:
    return f"user-{uuid.uuid4().hex[:12]}"


async def registered(http: httpx.AsyncClient, username: str | None = None) -> str:
    username = username or name()
    answer = await http.post("/users", json={"username": username, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return username


async def healthy(http: httpx.AsyncClient) -> bool:
    return (await http.get("/health")).status_code == 200


async def log_in(http: httpx.AsyncClient, username: str, password: str = PASSWORD, **form: Any) -> httpx.Response:
    return await http.post("/token", data={"username": username, "password": password, **form})


async def token_of(http: httpx.AsyncClient, username: str, **form: Any) -> dict[str, str]:
    answer = await log_in(http, username, **form)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def test_register_log_in_verify(auth: httpx.AsyncClient) -> None:
    username = name()
    answer = await auth.post("/users", json={"username": username.upper(), "password": PASSWORD})
    assert answer.json()["username"] == username
    assert "password" not in answer.text
    answer = await log_in(auth, username.title())
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["token_type"] == "bearer"
    assert answer.json()["expires_in"] == 900
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    known = (await auth.post("/verify", headers=headers)).json()
    assert (known["username"], known["method"]) == (username, "token")


async def test_a_token_can_be_checked_by_anybody_with_jwks(auth: httpx.AsyncClient) -> None:
    headers = await token_of(auth, await registered(auth))
    token = headers["Authorization"].removeprefix("Bearer ")
    keys = (await auth.get("/jwks")).json()
    assert keys == (await auth.get("/.well-known/jwks.json")).json()
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    assert uuid.UUID(jwt.decode(token, key.key, algorithms=["ES256"], audience="memory")["sub"])


@pytest.mark.parametrize(
    "body",
    [
        {"username": "ab", "password": PASSWORD},
        {"username": "has space", "password": PASSWORD},
        {"username": "-abc", "password": PASSWORD},
        {"username": "a" * 65, "password": PASSWORD},
        {"username": "abc\n", "password": PASSWORD},
        {"username": "abc", "password": "too short"},
        {"username": "abc", "password": "x" * 257},
        {"username": "abc"},
    ],
)
async def test_who_cannot_register(auth: httpx.AsyncClient, body: dict[str, str]) -> None:
    answer = await auth.post("/users", json=body)
    assert answer.status_code == 422
    assert body.get("password", "none at all") not in answer.text


async def test_a_name_is_taken_once_even_at_the_same_moment(auth: httpx.AsyncClient) -> None:
    body = {"username": name(), "password": PASSWORD}
    answers = await asyncio.gather(*(auth.post("/users", json=body) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


@pytest.mark.parametrize("password", ["wrong password", "", "x" * 5000, "a\x00b"])
async def test_a_wrong_password(auth: httpx.AsyncClient, password: str) -> None:
    answer = await log_in(auth, await registered(auth), password or "x")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["error"] == "invalid_grant"


@pytest.mark.parametrize("username", ["nobody-of-this-name", "' OR 1=1", "a\x00b", "ünknown", "x" * 3000])
async def test_an_unknown_user_is_told_the_same(auth: httpx.AsyncClient, username: str) -> None:
    wrong = await log_in(auth, await registered(auth), "wrong password")
    unknown = await log_in(auth, username, "wrong password")
    assert unknown.status_code == wrong.status_code
    assert unknown.json()["detail"] == wrong.json()["detail"]


async def test_a_token_expires(auth: httpx.AsyncClient, eventually: Callable[..., Awaitable[None]]) -> None:
    headers = await token_of(auth, await registered(auth), expires_in="1")

    async def refused() -> bool:
        return (await auth.post("/verify", headers=headers)).status_code == 401

    await eventually(refused)
    assert (await auth.post("/verify", headers=headers)).json()["detail"] == "The access token has expired."


@pytest.mark.parametrize("seconds", ["0", "901", "x"])
async def test_a_life_that_is_not_to_be_had(auth: httpx.AsyncClient, seconds: str) -> None:
    assert (await log_in(auth, await registered(auth), expires_in=seconds)).status_code == 422


async def test_logout(auth: httpx.AsyncClient) -> None:
    username = await registered(auth)
    ended, other = await token_of(auth, username), await token_of(auth, username)
    assert (await auth.post("/logout", headers=ended)).status_code == 204
    answer = await auth.post("/verify", headers=ended)
    assert (answer.status_code, answer.json()["detail"]) == (401, "The access token was revoked.")
    assert (await auth.post("/logout", headers=ended)).status_code == 401
    assert (await auth.post("/verify", headers=other)).status_code == 200


async def test_tokens_that_are_not_ours(auth: httpx.AsyncClient) -> None:
    token = (await token_of(auth, await registered(auth)))["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    header, payload, signature = token.split(".")
    kid = jwt.get_unverified_header(token)["kid"]
    from auth.signing import generate

    forged = [
        "x",
        "a.b.c",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[::-1]}",
        jwt.encode(claims, None, algorithm="none", headers={"kid": kid}),  # type: ignore[arg-type]
        jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": kid}),
        jwt.encode(claims, generate().private, algorithm="ES256", headers={"kid": kid}),
        jwt.encode(claims, generate().private, algorithm="ES256", headers={"kid": "unknown"}),
        jwt.encode(claims, generate().private, algorithm="ES256"),
    ]
    for one in forged:
        assert (await auth.post("/verify", headers={"Authorization": f"Bearer {one}"})).status_code == 401, one
    assert (await auth.post("/verify")).status_code == 401


async def test_api_keys(auth: httpx.AsyncClient) -> None:
    username = await registered(auth)
    token = await token_of(auth, username)
    made = (await auth.post("/api-keys", json={"password": PASSWORD, "name": "for ci"}, headers=token)).json()
    key = {"X-API-Key": made["key"]}
    for headers in (key, {"Authorization": f"Bearer {made['key']}"}):
        known = (await auth.post("/verify", headers=headers)).json()
        assert (known["username"], known["method"], known["credential_id"]) == (username, "api_key", made["id"])
    assert (await auth.get("/api-keys", headers=key)).status_code == 403
    listed = await auth.get("/api-keys", headers=token)
    assert [one["name"] for one in listed.json()["api_keys"]] == ["for ci"]
    assert made["key"] not in listed.text
    assert (await auth.post("/api-keys", json={"password": PASSWORD, "name": "more"}, headers=key)).status_code == 403
    assert (await auth.post("/logout", headers=key)).status_code == 403
    assert (await auth.delete(f"/api-keys/{made['id']}", headers=token)).status_code == 204
    assert (await auth.post("/verify", headers=key)).status_code == 401
    assert (await auth.delete(f"/api-keys/{made['id']}", headers=token)).status_code == 404
    assert (await auth.get("/api-keys", headers=token)).json() == {"api_keys": []}


async def test_anothers_api_key_does_not_exist(auth: httpx.AsyncClient) -> None:
    mine, other = [await token_of(auth, await registered(auth)) for _ in range(2)]
    made = (await auth.post("/api-keys", json={"password": PASSWORD, "name": "mine"}, headers=mine)).json()
    assert (await auth.delete(f"/api-keys/{made['id']}", headers=other)).status_code == 404
    assert (await auth.get("/api-keys", headers=other)).json() == {"api_keys": []}
    assert (await auth.post("/verify", headers={"X-API-Key": made["key"]})).status_code == 200


async def test_an_api_key_expires(auth: httpx.AsyncClient, eventually: Callable[..., Awaitable[None]]) -> None:
    token = await token_of(auth, await registered(auth))
    made = (
        await auth.post("/api-keys", json={"password": PASSWORD, "name": "short", "expires_in": 1}, headers=token)
    ).json()

    async def refused() -> bool:
        return (await auth.post("/verify", headers={"X-API-Key": made["key"]})).status_code == 401

    await eventually(refused)
    assert (await auth.get("/api-keys", headers=token)).json() == {"api_keys": []}


async def test_too_many_logins_wait(database: dict[str, Any], started: Start) -> None:
    address = f"test-{uuid.uuid4()}"
    http = await started(app(database, rate_limit_per_minute=3), address=address)
    username = await registered(http)  # counts as one
    statuses = [(await log_in(http, username, "wrong password")).status_code for _ in range(4)]
    assert statuses == [401, 401, 429, 429]
    refused = await log_in(http, username)
    assert refused.status_code == 429  # the right password too: else guessing would only be slow
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    elsewhere = await started(app(database, rate_limit_per_minute=3), address=f"test-{uuid.uuid4()}")
    assert (await log_in(elsewhere, username)).status_code == 200


async def test_a_refused_login_is_answered_late_so_many_at_a_time(
    database: dict[str, Any], started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.callers.held", asyncio.Semaphore(2))
    monkeypatch.setattr("common.callers.HELD_SECONDS", 5)
    http = await started(app(database, rate_limit_per_minute=1), address=f"test-{uuid.uuid4()}")
    username = await registered(http)  # counts as one
    guesses = [asyncio.create_task(log_in(http, username, "wrong password")) for _ in range(3)]
    done, late = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    assert [guess.result().status_code for guess in done] == [429]
    assert (await log_in(http, username)).status_code == 429
    assert [guess.done() for guess in late] == [False, False]
    assert {guess.status_code for guess in await asyncio.gather(*late)} == {429}


async def test_an_address_that_tries_many_names_waits(database: dict[str, Any], started: Start) -> None:
    http = await started(app(database, rate_limit_per_minute=1), address=f"test-{uuid.uuid4()}")
    statuses = [(await log_in(http, name())).status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2


async def test_an_account_that_is_tried_from_many_addresses_waits_and_its_owner_does_not(
    database: dict[str, Any], started: Start
) -> None:
    def of(address: str) -> Awaitable[httpx.AsyncClient]:
        return started(app(database, rate_limit_per_minute=4), address=address)

    one = uuid.uuid4().int
    home = await of(f"2001:db8:{one % 65_536:x}:1::1")
    username = await registered(home)
    assert (await log_in(home, username)).status_code == 200
    # Of one network: its addresses are one.
    same = [await of(f"2001:db8:{one % 65_536:x}:2::{number}") for number in range(1, 4)]
    statuses = [(await log_in(http, username, "wrong password")).status_code for http in same for _ in range(2)]
    assert statuses == [401] * 4 + [429] * 2
    strange = [await of(f"198.18.{one % 256}.{number}") for number in range(1, 5)]
    statuses = [(await log_in(http, username, "wrong password")).status_code for http in strange for _ in range(4)]
    assert statuses[:4] == [401] * 4
    assert statuses[-4:] == [429] * 4
    assert (await log_in(strange[-1], username)).status_code == 429
    assert (await log_in(home, username)).status_code == 200


async def test_keys_rotate_and_old_tokens_stay_good(
    database: dict[str, Any], started: Start, eventually: Callable[..., Awaitable[None]]
) -> None:
    http = await started(app(database, signing_key_seconds=1))
    other = await started(app(database))  # another instance, which has to learn of the new key
    username = await registered(http)
    first = await token_of(http, username)
    old = {one["kid"] for one in (await http.get("/jwks")).json()["keys"]}

    async def rotated() -> bool:
        kid = jwt.get_unverified_header((await token_of(http, username))["Authorization"].split()[1])["kid"]
        return kid not in old

    await eventually(rotated)
    now = await token_of(http, username)
    for instance in (http, other):
        assert (await instance.post("/verify", headers=first)).status_code == 200

    async def learnt() -> bool:
        return bool((await other.post("/verify", headers=now)).status_code == 200)

    await eventually(learnt)


async def test_two_instances_that_start_at_once_agree(
    stores: dict[str, Any], started: Start, eventually: Callable[..., Awaitable[None]]
) -> None:
    """On an empty database: all wait for its tables, which several make at once, and make one signing key."""
    admin = await asyncpg.connect(
        host=stores["postgres_host"], port=int(stores["postgres_port"]), user=stores["postgres_user"],
        password=stores["postgres_password"], database=stores["postgres_db"],
    )  # fmt: skip
    empty = f"test_{secrets.token_hex(6)}"
    await admin.execute(f'CREATE DATABASE "{empty}"')
    try:
        apps = [app({**stores, "postgres_db": empty}) for _ in range(4)]
        clients = [await started(one, ready=False) for one in apps]
        assert {(await http.get("/health")).status_code for http in clients} == {503}
        versions = await asyncio.gather(*(migrated({**stores, "postgres_db": empty}) for _ in range(4)))
        assert len(set(versions)) == 1
        for http in clients:
            await eventually(healthy, http)
        users = await asyncio.gather(*(registered(http) for http in clients))
        tokens = await asyncio.gather(*(token_of(http, user) for http, user in zip(clients, users, strict=True)))
        assert len({jwt.get_unverified_header(one["Authorization"].split()[1])["kid"] for one in tokens}) == 1
    finally:
        # The apps, which are stopped after this test only, still hold connections to it.
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", empty)
        await admin.execute(f'DROP DATABASE "{empty}" WITH (FORCE)')
        await admin.close()


async def test_another_secret_ends_tokens_but_not_users_or_api_keys(database: dict[str, Any], started: Start) -> None:
    http = await started(app(database))
    username = await registered(http)
    token = await token_of(http, username)
    made = (await http.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=token)).json()
    changed = await started(app(database, auth_secret=secrets.token_hex(32)))
    assert (await changed.post("/verify", headers=token)).status_code == 401
    assert (await changed.post("/verify", headers={"X-API-Key": made["key"]})).status_code == 200
    assert (await changed.post("/verify", headers=await token_of(changed, username))).status_code == 200


async def test_nothing_secret_is_kept_in_the_clear(
    database: dict[str, Any], auth: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    username = await registered(auth)
    token = await token_of(auth, username)
    key = (await auth.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=token)).json()["key"]
    await log_in(auth, username, "wrong password")
    connection = await asyncpg.connect(
        host=database["postgres_host"], port=int(database["postgres_port"]), user=database["postgres_user"],
        password=database["postgres_password"], database=database["postgres_db"],
    )  # fmt: skip
    rows = [
        str(row)
        for table in ("users", "api_keys", "signing_keys")
        for row in await connection.fetch(f"SELECT * FROM auth.{table}")
    ]
    await connection.close()
    secret_things = (PASSWORD, key, token["Authorization"].split()[1], SECRET, "BEGIN")
    said = capfd.readouterr().out
    assert len(rows) >= 3
    assert username.lower() in " ".join(rows)
    for secret in secret_things:
        assert not any(secret in row for row in rows)
        assert secret not in said


async def test_what_is_passed_on_is_for_one_service_and_a_short_time(auth: httpx.AsyncClient) -> None:
    token = await token_of(auth, await registered(auth))
    made = (
        await auth.post("/api-keys", json={"password": PASSWORD, "name": "x", "scopes": ["memory:read"]}, headers=token)
    ).json()
    keys = jwt.PyJWKSet.from_dict((await auth.get("/jwks")).json())
    for headers, scopes in (
        (token, "account memory:read memory:write tasks"),
        ({"X-API-Key": made["key"]}, "memory:read"),
    ):
        answer = await auth.post("/exchange", json={"audience": "memory"}, headers=headers)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json()["scope"] == scopes
        assert 200 < answer.json()["expires_in"] <= 900
        passed_on = answer.json()["access_token"]
        key = keys[jwt.get_unverified_header(passed_on)["kid"]]
        assert jwt.decode(passed_on, key.key, algorithms=["ES256"], audience="memory")["scope"] == scopes
        refused = await auth.post("/verify", headers={"Authorization": f"Bearer {passed_on}"})
        assert (refused.status_code, refused.json()["detail"]) == (401, "The access token is for another service.")
    # auth among them: there a key would become a token, which may do what a key may not.
    for audience in ("bank", "auth"):
        for headers in (token, {"X-API-Key": made["key"]}):
            answer = await auth.post("/exchange", json={"audience": audience}, headers=headers)
            assert answer.status_code == 422


async def test_what_is_done_in_a_users_name_outlives_the_token_and_no_logout(
    auth: httpx.AsyncClient, redis: Any
) -> None:
    username = await registered(auth)
    form = {"username": username, "password": PASSWORD, "expires_in": "5"}
    login = (await auth.post("/token", data=form)).json()
    token = {"Authorization": f"Bearer {login['access_token']}"}
    ends = {}
    for lasting in (False, True):
        asked = {"audience": "memory", "lasting": lasting}
        said = (await auth.post("/exchange", json=asked, headers=token)).json()["access_token"]
        ends[lasting] = jwt.decode(said, options={"verify_signature": False})
    assert ends[False]["exp"] - time.time() <= 5
    assert ends[True]["exp"] - time.time() > 600  # longer than an answer takes
    assert (await auth.post("/logout", headers=token)).status_code == 204
    key = tokens.revoked(ends[True]["jti"])
    assert time.time() + await redis.ttl(key) >= ends[True]["exp"] - 1


async def test_the_next_key_is_published_before_it_signs(
    database: dict[str, Any], started: Start, eventually: Callable[..., Awaitable[None]]
) -> None:
    http = await started(app(database, signing_key_seconds=4))
    username = await registered(http)
    published = signing = ""

    async def another() -> bool:
        nonlocal published, signing
        token = (await token_of(http, username))["Authorization"].split()[1]
        signing = jwt.get_unverified_header(token)["kid"]
        published = (await http.get("/jwks")).json()["keys"][0]["kid"]
        return published != signing

    await eventually(another)
    next_key = published

    async def signs() -> bool:
        await another()
        return signing == next_key

    await eventually(signs)
    assert (await http.get("/jwks")).headers["Cache-Control"] == "public, max-age=1"


async def test_an_api_key_has_scopes_an_end_and_no_power_over_others(database: dict[str, Any], started: Start) -> None:
    http = await started(app(database, api_keys_per_user=2, api_key_days=7))
    token = await token_of(http, await registered(http))
    one, other = [
        (await http.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=token)).json() for _ in range(2)
    ]
    days = datetime.fromisoformat(one["expires_at"]) - datetime.fromisoformat(one["created_at"])
    assert days == timedelta(days=7)
    assert one["scopes"] == ["memory:read", "memory:write", "tasks"]
    refused = await http.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=token)
    assert (refused.status_code, refused.json()["detail"]) == (409, "You may have 2 API keys: revoke one.")
    key = {"X-API-Key": one["key"]}
    for scopes in (["account"], ["admin"], []):
        assert (
            await http.post("/api-keys", json={"password": PASSWORD, "name": "x", "scopes": scopes}, headers=token)
        ).status_code == 422
    refused = await http.delete(f"/api-keys/{other['id']}", headers=key)
    assert (refused.status_code, refused.json()["detail"]) == (403, "This takes a credential with the scope account.")
    assert (await http.delete(f"/api-keys/{one['id']}", headers=key)).status_code == 204
    assert (await http.post("/verify", headers=key)).status_code == 401


@pytest.mark.parametrize("password", ["password123", "Password2024!", "qwertyuiop", "aaaaaaaaaaaa", "NAMENAME"])
async def test_a_password_that_is_easily_guessed_is_refused(auth: httpx.AsyncClient, password: str) -> None:
    username = name()
    body = {"username": username, "password": password.replace("NAME", username)}
    answer = await auth.post("/users", json=body)
    assert answer.status_code == 422
    assert "too easily guessed" in answer.json()["detail"]


NEW = "a teal flowerpot in Oslo"


async def test_a_new_password_ends_what_the_old_one_began(auth: httpx.AsyncClient) -> None:
    username = await registered(auth)
    token = await token_of(auth, username)
    change = {"password": "wrong password", "new_password": NEW}
    assert (await auth.post("/users/me/password", json=change, headers=token)).status_code == 403
    weak = {"password": PASSWORD, "new_password": "password123"}
    assert (await auth.post("/users/me/password", json=weak, headers=token)).status_code == 422
    change["password"] = PASSWORD
    assert (await auth.post("/users/me/password", json=change, headers=token)).status_code == 204
    assert (await auth.post("/verify", headers=token)).status_code == 401
    assert (await log_in(auth, username)).status_code == 401
    answer = await log_in(auth, username, NEW)
    again = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await auth.post("/verify", headers=again)).status_code == 200


async def test_log_out_everywhere(auth: httpx.AsyncClient) -> None:
    username = await registered(auth)
    one, other = await token_of(auth, username), await token_of(auth, username)
    assert (await auth.post("/logout?everywhere=true", headers=one)).status_code == 204
    assert [(await auth.post("/verify", headers=each)).status_code for each in (one, other)] == [401, 401]
    assert (await auth.post("/verify", headers=await token_of(auth, username))).status_code == 200


async def test_who_deletes_the_account_is_gone(database: dict[str, Any], auth: httpx.AsyncClient) -> None:
    username = await registered(auth)
    token = await token_of(auth, username)
    user_id = (await auth.post("/verify", headers=token)).json()["user_id"]
    key = {
        "X-API-Key": (await auth.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=token)).json()[
            "key"
        ]
    }
    assert (await auth.post("/users/me/deletion", json={"password": "wrong one"}, headers=token)).status_code == 403
    assert (await auth.post("/users/me/deletion", json={"password": PASSWORD}, headers=token)).status_code == 204
    assert [(await auth.post("/verify", headers=one)).status_code for one in (token, key)] == [401, 401]
    assert (await log_in(auth, username)).status_code == 401
    assert user_id in await execute(database, "SELECT id FROM auth.deleted_users")


async def test_a_key_takes_the_password(auth: httpx.AsyncClient, audited: list[dict[str, Any]]) -> None:
    """Who has stolen a token makes no key that outlives it."""
    token = await token_of(auth, await registered(auth))
    for more, status in (({}, 422), ({"password": "a wrong one of mine"}, 403), ({"password": PASSWORD}, 201)):
        answer = await auth.post("/api-keys", json={"name": "x", **more}, headers=token)
        assert answer.status_code == status, answer.text
    assert "wrong password" in [one["message"] for one in audited]


async def test_through_a_proxy_only_administrators_make_users(database: dict[str, Any], started: Start) -> None:
    new = {"password": PASSWORD}
    through = {"X-Forwarded-For": "203.0.113.9"}
    for registration, statuses in (("local", [201, 401]), ("open", [201, 201]), ("closed", [401, 401])):
        more = {} if registration == "local" else {"registration": registration}
        http = await started(app(database, **more))
        asked = [await http.post("/users", json={"username": name(), **new}, headers=one) for one in ({}, through)]
        assert [one.status_code for one in asked] == statuses, registration


async def test_strangers_are_refused_before_their_body_is_read(
    database: dict[str, Any], started: Start, strangers: Callable[[Any], Awaitable[list[str]]]
) -> None:
    told = ["docs", "docs/oauth2-redirect", "health", "jwks", "openapi.json"]
    answered = ["GET /.well-known/jwks.json", *(f"GET /{one}" for one in told), "POST /token"]
    for registration, more in (("local", ["POST /users"]), ("closed", [])):
        one = app(database, registration=registration)
        await started(one)
        assert await strangers(one) == [*answered, *more]


async def test_an_administrator_made_by_a_command(database: dict[str, Any], started: Start) -> None:
    settings = AuthSettings(**{"auth_secret": SECRET, **database})
    opened, closed = await started(app(database)), await started(app(database, registration="closed"))
    root, other = await registered(opened), await registered(opened)
    assert (await closed.post("/users", json={"username": name(), "password": PASSWORD})).status_code == 401
    token, others = await token_of(closed, root), await token_of(closed, other)
    assert (await closed.patch(f"/users/{other}", json={"disabled": True}, headers=token)).status_code == 403
    assert await admin.change(settings, "make-admin", root) is not None
    assert await admin.change(settings, "make-admin", "nobody-of-this-name") is None
    token = await token_of(closed, root)
    new = {"username": name(), "password": PASSWORD}
    assert (await closed.post("/users", json=new, headers=others)).status_code == 403
    assert (await closed.post("/users", json=new, headers=token)).status_code == 201
    key = {
        "X-API-Key": (await closed.post("/api-keys", json={"password": PASSWORD, "name": "x"}, headers=others)).json()[
            "key"
        ]
    }
    changed = await closed.patch(f"/users/{other}", json={"disabled": True}, headers=token)
    assert changed.json()["disabled_at"] is not None
    assert [(await closed.post("/verify", headers=one)).status_code for one in (others, key)] == [401, 401]
    assert (await log_in(closed, other)).status_code == 401
    await closed.patch(f"/users/{other}", json={"disabled": False}, headers=token)
    assert (await log_in(closed, other)).status_code == 200
    assert (await closed.delete(f"/users/{other}", headers=token)).status_code == 204
    assert (await closed.delete(f"/users/{other}", headers=token)).status_code == 404


async def test_the_tables_are_those_of_the_migrations(database: dict[str, Any]) -> None:
    from auth.tables import Table

    assert await drift(database, Table.metadata) == []


async def test_a_generated_client_can_log_in(
    auth: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openapi.json").write_text((await auth.get("/openapi.json")).text)
    argv = [Path(sys.executable).parent / "openapi-python-client", "generate", "--path", tmp_path / "openapi.json"]
    argv += ["--meta", "none", "--output-path", tmp_path / "generated_auth", "--fail-on-warning"]
    with_ruff = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = await anyio.run_process(argv, check=False, env=with_ruff)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("generated_auth")
    calls = {name: importlib.import_module(f"generated_auth.api.{name}") for name in ("users.log_in", "verify.verify")}
    models = importlib.import_module("generated_auth.models")

    username = await registered(auth)
    client = made.Client("http://service").set_async_httpx_client(auth)
    form = models.BodyLogIn(username=username, password=PASSWORD)
    token = await calls["users.log_in"].asyncio(client=client, body=form)
    assert isinstance(token, models.AccessToken)
    headers = {"Authorization": f"Bearer {token.access_token}"}
    http = httpx.AsyncClient(transport=auth._transport, base_url="http://service", headers=headers)
    known = await calls["verify.verify"].asyncio(client=made.Client("http://service").set_async_httpx_client(http))
    assert known.username == username
    form.password = "wrong password"
    refused = await calls["users.log_in"].asyncio(client=client, body=form)
    assert (type(refused).__name__, refused.status) == ("Problem", 401)


async def test_it_says_which_credentials_it_takes(auth: httpx.AsyncClient) -> None:
    said = (await auth.get("/openapi.json")).json()
    schemes = said["components"]["securitySchemes"]
    assert schemes["token"]["flows"]["password"]["tokenUrl"] == "/token"
    assert (schemes["api_key"]["in"], schemes["api_key"]["name"]) == ("header", "X-API-Key")
    open_to_all = {
        (method, path)
        for path, operations in said["paths"].items()
        for method, operation in operations.items()
        if "security" not in operation
    }
    assert open_to_all == {("post", "/users"), ("post", "/token"), ("get", "/jwks"), ("get", "/health")}
    assert said["paths"]["/api-keys"]["get"]["security"] == [{"token": ["account"]}, {"api_key": []}]


async def test_who_did_what_is_in_the_audit_log(
    database: dict[str, Any], started: Start, audited: list[dict[str, Any]]
) -> None:
    settings = AuthSettings(auth_secret=SECRET, **database)
    http = await started(app(database, log_level="ERROR"), address="192.0.2.7")
    root, user = name(), name()
    for one in (root, user):
        await registered(http, one)
    assert await admin.change(settings, "make-admin", root) is not None
    secret = "typed into the wrong field"
    for one in (user, secret):
        assert (await log_in(http, one, "not this one")).status_code == 401
    who, chief = await token_of(http, user), await token_of(http, root)
    made = (await http.post("/api-keys", json={"password": PASSWORD, "name": "laptop"}, headers=who)).json()
    assert (await http.delete(f"/api-keys/{made['id']}", headers=who)).status_code == 204
    wrong = {"password": "not this one", "new_password": PASSWORD + " battery"}
    assert (await http.post("/users/me/password", json=wrong, headers=who)).status_code == 403
    right = {**wrong, "password": PASSWORD}
    assert (await http.post("/users/me/password", json=right, headers=who)).status_code == 204
    assert (await http.post("/logout", headers=chief)).status_code == 204
    chief = await token_of(http, root)
    for disabled in (True, False):
        assert (await http.patch(f"/users/{user}", json={"disabled": disabled}, headers=chief)).status_code == 200
    assert (await http.delete(f"/users/{user}", headers=chief)).status_code == 204

    said = [(one["message"], one.get("username"), one.get("target")) for one in audited]
    assert said == [
        ("user registered", root, None), ("user registered", user, None),
        ("administrator made", None, root),
        ("login failed", None, user), ("login failed", None, "unknown"),
        ("login", user, None), ("login", root, None),
        ("key made", user, made["id"]), ("key revoked", user, made["id"]),
        ("wrong password", user, None), ("password changed", user, None),
        ("logout", root, None), ("login", root, None),
        ("user disabled", root, user), ("user enabled", root, user), ("user deleted", root, user),
    ]  # fmt: skip
    assert {one["address"] for one in audited if one["message"] != "administrator made"} == {"192.0.2.7"}
    for one in (PASSWORD, secret, made["key"], "not this one", who["Authorization"]):
        assert one not in str(audited)
