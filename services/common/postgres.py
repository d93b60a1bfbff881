"""How does a service talk to PostgreSQL, and what when it is away?

Every step has a time limit, a connection is tried before it is used, and whatever says "not there" becomes
``Unavailable`` (503). Tables are made in the background: a service starts without its database, says so in
``/health``, and works as soon as the database answers.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
from sqlalchemy import URL, MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateSchema

from common.problems import Unavailable
from common.settings import PostgresSettings

log = logging.getLogger("postgres")

SECONDS = 3
"""The limit of connecting, of waiting for a free connection, and of each statement."""

_NOT_THERE = {"08", "53", "57", "58"}
"""PostgreSQL's classes of errors: connection, resources, shut down or starting, its system."""


class Database:
    """The database of one service: its tables live in a PostgreSQL schema of their own."""

    def __init__(
        self, settings: PostgresSettings, service: str, metadata: MetaData, extensions: Sequence[str] = ()
    ) -> None:
        """``metadata`` are the tables, ``extensions`` what PostgreSQL must be able to do for them."""
        self.service = service
        self.metadata = metadata
        self.extensions = extensions
        self.prepared = False
        self.engine = create_async_engine(
            URL.create(
                "postgresql+asyncpg",
                settings.postgres_user,
                settings.postgres_password.get_secret_value(),
                settings.postgres_host,
                settings.postgres_port,
                settings.postgres_db,
            ),
            # Each connection is tried before it is used; without transactions that takes one question, not three.
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=10,
            pool_timeout=SECONDS,
            hide_parameters=True,  # error texts go to the log, parameters must not
            connect_args={
                "timeout": SECONDS,
                "command_timeout": SECONDS,
                "server_settings": {"application_name": service, "jit": "off"},
            },
        )
        self._transactional = self.engine.execution_options(isolation_level="READ COMMITTED")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement stands for itself, done or not done.

        Raises ``Unavailable`` when the database does not answer in time or has no tables yet.
        """
        async with self._connected(self.engine) as connection:
            yield connection

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

    async def check(self) -> None:
        """Raise ``Unavailable`` unless the tables are made and the database answers."""
        async with self.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def prepare(self) -> None:
        """Make what is missing: extensions, schema, tables. Several services may do it at once."""
        with _unavailable():
            async with self._transactional.begin() as connection:
                # One lock for all services: an extension belongs to the database, not to a schema.
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key("tables")})
                for extension in self.extensions:
                    await connection.execute(text(f'CREATE EXTENSION IF NOT EXISTS "{extension}"'))
                if self.metadata.schema:
                    await connection.execute(CreateSchema(self.metadata.schema, if_not_exists=True))
                await connection.run_sync(self.metadata.create_all)
        self.prepared = True

    async def prepare_until_done(self) -> None:
        """Try ``prepare`` again and again, up to 5 seconds apart."""
        pause = 0.25
        while not self.prepared:
            try:
                await self.prepare()
            except Unavailable as error:
                log.warning("no tables yet", extra={"cause": type(error.__cause__).__name__})
            except DBAPIError as error:
                # Not a matter of waiting, most likely (a missing extension or right): say all of it.
                log.error("the tables cannot be made: %s", error.orig)
            if not self.prepared:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Prepare in the background; close every connection at the end."""
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
        if error is not None and not_there(error):
            raise Unavailable("PostgreSQL") from error


def not_there(error: BaseException) -> bool:
    """Whether ``error`` means that the database cannot be reached or does not work now."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return error.connection_invalidated or state is None or state[:2] in _NOT_THERE
    # asyncpg's own errors come unwrapped while connecting only. Both time limits are OSErrors too.
    return isinstance(
        error,
        (OSError, NoFreeConnection, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    )


def lock_key(name: str) -> int:
    """The number under which PostgreSQL knows the advisory lock ``name``."""
    return zlib.crc32(f"vllm-swarm/{name}".encode())
