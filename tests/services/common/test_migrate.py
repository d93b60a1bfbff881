"""Is the database as the services need it, whatever it was before?"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from conftest_stores import execute, migrated

from common import migrate as migrate_module
from common.migrate import SCHEMAS, MigrationSettings, known, migrate

PASSWORD = "a'b\"c\\d"


@pytest.fixture
async def empty(stores: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A database with nothing in it."""
    name = f"test_{secrets.token_hex(6)}"
    await execute(stores, f'CREATE DATABASE "{name}"')
    yield {**stores, "postgres_db": name}
    await execute(stores, f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_tables_that_services_made_for_themselves_are_taken_over(empty: dict[str, Any]) -> None:
    """As they were before there were migrations: what is in them stays, and is counted."""
    for statement in OLD.split(";\n"):
        await execute(empty, statement)
    user = "00000000-0000-0000-0000-000000000001"
    await execute(empty, "INSERT INTO auth.users VALUES ($1, 'alice', 'hash')", user)
    await execute(
        empty,
        "INSERT INTO memory.memories VALUES ($1, $1, 'text', '{\"a\": \"b\"}', array_fill(1, ARRAY[256])::vector)",
        user,
    )
    assert await migrated(empty) == await migrated(empty) == "0005"
    assert "alice" in await execute(empty, "SELECT username FROM auth.users WHERE NOT is_admin")
    assert await execute(empty, "SELECT memories, bytes FROM memory.usage") == "<Record memories=1 bytes=14>"


@pytest.mark.parametrize(("error", "why"), [(TimeoutError(), "TimeoutError"), (OSError("no route"), "no route")])
def test_why_nothing_was_done_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    async def failing(settings: MigrationSettings, passwords: dict[str, str]) -> str:
        raise error

    monkeypatch.setattr(migrate_module, "migrate", failing)
    monkeypatch.setattr(sys, "argv", ["migrate"])
    of_services = [f"{one.upper()}_STORE_PASSWORD" for one in SCHEMAS]
    for name in ("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", *of_services):
        monkeypatch.setenv(name, "a-password-of-the-test")
    with pytest.raises(SystemExit) as ended:
        migrate_module.main()
    assert ended.value.code == f"The database was left as it was: {why}"


async def test_a_newer_database_is_left_as_it_is(empty: dict[str, Any]) -> None:
    await migrated(empty)
    await execute(empty, "UPDATE alembic_version SET version_num = '9999'")
    assert await migrated(empty) == "9999, newer than these services"
    assert "9999" in await execute(empty, "SELECT version_num FROM alembic_version")


async def test_a_service_has_its_own_rows_and_nothing_else(empty: dict[str, Any]) -> None:
    services = ("auth", "memory", "orchestrator")
    for _ in range(2):  # again, with new passwords
        passwords = {service: f"{PASSWORD}-{secrets.token_hex(8)}" for service in services}
        await migrate(MigrationSettings(**empty), passwords)
    tables = {"auth": "users", "memory": "memories", "orchestrator": "tasks"}
    for service, password in passwords.items():
        own = {**empty, "postgres_user": f"swarm_{service}", "postgres_password": password}
        assert "count=0" in await execute(own, f"SELECT count(*) FROM {service}.{tables[service]}")
        assert "count=0" in await execute(own, "SELECT count(*) FROM auth.deleted_users")
        others = [f"SELECT 1 FROM {other}.{tables[other]}" for other in services if other != service]
        for statement in (
            *others,
            f"CREATE TABLE {service}.more ()",
            f"DROP TABLE {service}.{tables[service]}",
            "CREATE TABLE public.more ()",
            "CREATE ROLE another",
            *(["DELETE FROM auth.deleted_users"] if service != "auth" else []),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await execute(own, statement)


OLD = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA auth;
CREATE SCHEMA memory;
CREATE TABLE auth.users (
    id uuid PRIMARY KEY,
    username varchar NOT NULL UNIQUE,
    password_hash varchar NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE memory.memories (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    text varchar NOT NULL,
    metadata jsonb NOT NULL,
    embedding vector(256) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)"""


def test_which_versions_can_be_brought_to_this_one() -> None:
    assert known(None)
    assert known("0001")
    assert not known("9999")
