"""A line to a store that can fail the ways a store does: gone (refuses), frozen (accepts, says nothing), and started
anew with nobody told (what was open breaks when it is used)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Link:
    """Passes bytes between a port of its own and ``host``:``port``."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, _: type | None, __: BaseException | None, ___: TracebackType | None) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Work again, on the same port."""
        self._thawed.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Be gone: refuse what comes and break what is."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def freeze(self) -> None:
        """Accept everything, and pass on nothing."""
        self._thawed.clear()

    def lose(self) -> None:
        """Know nothing any more of the connections that are open, and tell nobody, as a machine that was killed."""
        self._lost |= self._writers

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(there_writer)
        for one, other in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(one, other, writer))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._thawed.wait()
                if client in self._lost:
                    client.transport.abort()
                    break
                writer.write(data)
                await writer.drain()
        writer.close()
