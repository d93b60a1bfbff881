"""Is the database as these services need it? ``python -m common.migrate``, run once before they are started.

It connects as the owner of the database. Alembic brings the tables to this version; each service gets a role that
may read and write the rows of its own schema and nothing else, with the password of ``<SERVICE>_STORE_PASSWORD``.

A database that is newer than this (a version was put back) is left as it is: migrations only add, so that services of
one version before go on working. ``python -m common.migrate --knows VERSION`` connects to nothing, and fails when this
version of the tables is newer than these services.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from common.postgres import new_engine
from common.settings import PostgresSettings, load

SCHEMAS = ("auth", "memory", "orchestrator")
NEWER = "newer than these services"
READS = {"memory": "auth.deleted_users", "orchestrator": "auth.deleted_users"}
"""What a service reads of another's: whose data is to be deleted."""


class MigrationSettings(PostgresSettings):
    """What a migration is told."""

    auth_store_password: SecretStr = SecretStr("")
    memory_store_password: SecretStr = SecretStr("")
    orchestrator_store_password: SecretStr = SecretStr("")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def known(version: str | None) -> bool:
    """Whether tables of this version (none: there are none yet) can be brought to that of these services."""
    try:
        ScriptDirectory.from_config(_config()).get_revision(version)
    except CommandError:
        return False
    return True


def upgrade(connection: Connection) -> str:
    """Bring the tables to this version, on a ``connection`` in a transaction. Returns what is there then."""
    config = _config()
    config.attributes["connection"] = connection
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('tables', 0))"))
    there = connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one()
    now = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() if there else None
    if not known(now):
        return f"{now}, {NEWER}"
    command.upgrade(config, "head")
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def verifier(password: str) -> str:
    """What PostgreSQL keeps of ``password`` (RFC 5803). Sent in its place, the password is in no statement or log."""
    salt, rounds = secrets.token_bytes(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(one).decode() for one in (salt, stored, server))
    return f"SCRAM-SHA-256${rounds}:{salt64}${stored64}:{server64}"


def roles(connection: Connection, passwords: Mapping[str, str]) -> None:
    """Give each service of ``passwords`` its role, and that role its rights."""
    database = connection.execute(text("SELECT quote_ident(current_database())")).scalar_one()
    connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    for service, password in passwords.items():
        name = f"swarm_{service}"
        if not connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}).all():
            connection.exec_driver_sql(f"CREATE ROLE {name}")
        for statement in (
            f"ALTER ROLE {name} LOGIN PASSWORD '{verifier(password)}'",
            f"GRANT CONNECT ON DATABASE {database} TO {name}",
            f"GRANT USAGE ON SCHEMA {service}, auth TO {name}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {service} TO {name}",
            *([f"GRANT SELECT ON {READS[service]} TO {name}"] if service in READS else []),
        ):
            connection.exec_driver_sql(statement)


async def migrate(settings: PostgresSettings, passwords: Mapping[str, str]) -> str:
    """Bring tables and roles to this version, all or nothing. Returns the version of the tables."""
    engine = new_engine(settings, "migrate", seconds=600)
    try:
        async with engine.begin() as connection:
            version = await connection.run_sync(upgrade)
            await connection.run_sync(roles, passwords)
    finally:
        await engine.dispose()
    return version


def main() -> None:
    """Migrate as the environment says. Status 1 and a sentence when it cannot be done."""
    if sys.argv[1:2] == ["--knows"]:
        version = " ".join(sys.argv[2:])
        sys.exit(0 if known(version) else f"the tables are of version {version}, {NEWER}")
    settings = load(MigrationSettings)
    passwords = {one: getattr(settings, f"{one}_store_password").get_secret_value() for one in SCHEMAS}
    if empty := [one.upper() for one, given in passwords.items() if not given or given.startswith("change-me")]:
        sys.exit("Refusing to start.\n" + "\n".join(f"{one}_STORE_PASSWORD: Field required" for one in empty))
    try:
        version = asyncio.run(migrate(settings, passwords))
    except (DBAPIError, OSError) as error:
        cause = getattr(error, "orig", error)
        sys.exit(f"The database was left as it was: {str(cause) or type(cause).__name__}")
    # What is not as usual is for those who start the stack: `up_optimized` shows what goes to standard error.
    print(f"The tables are of version {version}.", file=sys.stderr if NEWER in version else sys.stdout)


if __name__ == "__main__":
    main()
