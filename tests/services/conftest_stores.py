"""What a test does with the database itself."""

from __future__ import annotations

from typing import Any


async def execute(database: dict[str, Any], statement: str, *arguments: Any) -> str:
    """Run ``statement`` as the owner of the database; what it returns, as text."""
    import asyncpg

    connection = await asyncpg.connect(
        host=database["postgres_host"], port=int(database["postgres_port"]), user=database["postgres_user"],
        password=database["postgres_password"], database=database["postgres_db"],
    )  # fmt: skip
    try:
        return " ".join(map(str, await connection.fetch(statement, *arguments)))
    finally:
        await connection.close()


async def migrated(database: dict[str, Any]) -> str:
    """Make the tables, as the one-shot service does; their version."""
    from common.migrate import MigrationSettings, upgrade
    from common.postgres import new_engine

    engine = new_engine(MigrationSettings(**database), "tests", seconds=60)
    async with engine.begin() as connection:
        version = await connection.run_sync(upgrade)
    await engine.dispose()
    return version


async def drift(database: dict[str, Any], metadata: Any) -> list[Any]:
    """How the tables of the migrations differ from those that the code of a service knows."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from common.migrate import MigrationSettings
    from common.postgres import new_engine

    def compared(connection: Any) -> list[Any]:
        options = {
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name == metadata.schema,
            "compare_server_default": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = new_engine(MigrationSettings(**database), "tests", seconds=60)
    async with engine.connect() as connection:
        found = await connection.run_sync(compared)
    await engine.dispose()
    return found
