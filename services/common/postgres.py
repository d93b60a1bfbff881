"""How does a service talk to PostgreSQL, and what when it is away?

Every step has a time limit, a connection is not used that is lost, and whatever says "not there" becomes
``Unavailable`` (503). Tables are made by ``common.migrate``: a service starts without them or without a database, says
so in ``/health``, and works as soon as they are there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from sqlalchemy import URL, Executable, MetaData, Row, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from common import metrics
from common.problems import Busy, Unavailable
from common.settings import PostgresSettings

log = logging.getLogger("postgres")

SECONDS = 3
"""The limit of connecting, of waiting for a free connection, and of each statement."""

CONNECTING = 60
"""The limit of connecting for who gives statements longer: the steps of a login take seconds under emulation."""

IDLE_SECONDS = 1
"""A connection that was idle for longer is tried before it is used; always, it would be a seventh of a request."""

BATCH = 1000
"""So many rows are thrown away with one statement."""

_NOT_THERE = {"08", "53", "57", "58"}
"""PostgreSQL's classes of errors: connection, resources, shut down or starting, its system."""


def new_engine(settings: PostgresSettings, name: str, seconds: float = SECONDS) -> AsyncEngine:
    """Connections as ``settings`` say, that call themselves ``name``; a statement may take so many seconds."""
    url = URL.create(
        "postgresql+asyncpg", settings.postgres_user, settings.postgres_password.get_secret_value(),
        settings.postgres_host, settings.postgres_port, settings.postgres_db,
    )  # fmt: skip
    engine = create_async_engine(
        url, pool_size=10, max_overflow=10, pool_timeout=SECONDS,
        hide_parameters=True,  # error texts go to the log, parameters must not
        connect_args={
            "timeout": min(seconds, CONNECTING), "command_timeout": seconds,
            "server_settings": {"application_name": name, "jit": "off"},
        },
    )  # fmt: skip

    in_use = metrics.CONNECTIONS.labels("PostgreSQL")

    @event.listens_for(engine.sync_engine, "checkin")
    def idle(_: object, record: Any) -> None:
        record.info["idle since"] = time.monotonic()
        in_use.set(engine.sync_engine.pool.checkedout() - 1)  # type: ignore[attr-defined]

    @event.listens_for(engine.sync_engine, "checkout")
    def tried(connection: Any, record: Any, _: object) -> None:
        try:
            if connection.driver_connection.is_closed():
                raise InvalidatePoolError
            if time.monotonic() - record.info.get("idle since", time.monotonic()) > IDLE_SECONDS:
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error
        in_use.set(engine.sync_engine.pool.checkedout())  # type: ignore[attr-defined]

    return engine


class Database:
    """The database of one service: its tables live in a PostgreSQL schema of their own."""

    def __init__(self, settings: PostgresSettings, service: str, metadata: MetaData) -> None:
        """``metadata`` are the tables that it needs."""
        self.service = service
        self.metadata = metadata
        self.prepared = False
        # Without a transaction a statement takes one question, not three.
        self._transactional = new_engine(settings, service)
        self.engine = self._transactional.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement stands for itself, done or not done.

        Raises ``Unavailable`` when the database does not answer in time or has no tables yet.
        """
        async with self._connected(self.engine) as connection:
            yield connection

    async def rows(self, statement: Executable, values: Any = None) -> Sequence[Row[Any]]:
        """What a statement gives that stands for itself; nothing where it gives no rows. Raises as ``connect``."""
        async with self.connect() as connection:
            result = await connection.execute(statement, values)
            return result.all() if result.returns_rows else ()

    async def row(self, statement: Executable) -> Row[Any] | None:
        """The first row of these."""
        return next(iter(await self.rows(statement)), None)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A connection inside a transaction, committed at the end, rolled back by an exception; as ``connect`` else."""
        async with self._connected(self._transactional) as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        if not self.prepared:
            raise Unavailable("PostgreSQL", "is not ready")
        with _unavailable():
            async with engine.connect() as connection:
                yield connection

    async def forget(self, table: str, *conditions: str, **values: object) -> None:
        """Delete the rows of ``table`` of which one of ``conditions`` is true, and those of users whom ``auth`` has
        deleted, a batch at a time."""
        # Nobody but the planner would look at every row for those of a few users; so it is told to go by the users.
        theirs = f"LATERAL (SELECT ctid FROM {table} WHERE user_id = gone.id LIMIT {BATCH})"  # noqa: S608 - no text of others
        selects = [f"SELECT ctid FROM {table} WHERE {condition}" for condition in conditions]  # noqa: S608
        async with self.connect() as connection:
            for some in (*selects, f"SELECT theirs.ctid FROM auth.deleted_users AS gone, {theirs} AS theirs"):  # noqa: S608
                statement = text(f"DELETE FROM {table} WHERE ctid = ANY (ARRAY({some} LIMIT {BATCH}))")  # noqa: S608
                while (await connection.execute(statement, values)).rowcount == BATCH:
                    pass

    async def check(self) -> None:
        """Raise ``Unavailable`` unless the tables are there and the database takes what is written."""
        async with self.connect() as connection:
            # The message goes to the write-ahead log and nowhere else.
            wrote = "SELECT current_setting('transaction_read_only'), pg_logical_emit_message(true, 'health', '')"
            if (await connection.execute(text(wrote))).one()[0] != "off":
                raise Unavailable("PostgreSQL", "takes no writes")

    async def prepare(self) -> None:
        """Raise ``Unavailable`` unless every table is there."""
        names = [table.fullname for table in self.metadata.sorted_tables]
        missing = text("SELECT array_agg(n) FROM unnest(CAST(:names AS text[])) AS n WHERE to_regclass(n) IS NULL")
        with _unavailable():
            async with self.engine.connect() as connection:
                if found := (await connection.execute(missing, {"names": names})).scalar_one():
                    raise Unavailable("PostgreSQL", f"has no {', '.join(found)} yet")
        self.prepared = True

    async def prepare_until_done(self) -> None:
        """Try ``prepare`` again and again, up to 5 seconds apart."""
        pause = 0.25
        while not self.prepared:
            try:
                await self.prepare()
            except Unavailable as error:
                log.warning("not ready: %s", error.detail, extra={"cause": type(error.__cause__).__name__})
            except DBAPIError as error:
                # Not a matter of waiting, most likely (a missing right): say all of it.
                log.error("the tables cannot be looked at: %s", error.orig)
            if not self.prepared:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for the tables in the background; close every connection at the end."""
        preparation = asyncio.create_task(self.prepare_until_done())
        try:
            yield
        finally:
            preparation.cancel()
            with suppress(asyncio.CancelledError):
                await preparation
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    await self.engine.dispose()


class _unavailable:  # noqa: N801 - reads as a statement, as contextlib's own do
    """Turns every way in which the driver says "not there" into ``Unavailable``; other errors pass."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, NoFreeConnection):
            raise Busy from error
        if error is not None and not_there(error):
            raise Unavailable("PostgreSQL") from error


def not_there(error: BaseException) -> bool:
    """Whether ``error`` means that the database cannot be reached or does not work now."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return error.connection_invalidated or state is None or state[:2] in _NOT_THERE
    # asyncpg's own errors come unwrapped while connecting only. Both time limits are OSErrors too.
    return isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError))


async def lock(connection: AsyncConnection, name: str) -> None:
    """Hold the advisory lock ``name`` until the transaction ends."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": name})
