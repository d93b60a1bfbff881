"""What may a client cost before anything is known of it? So many bytes of a head, so many seconds, so many places.

uvicorn reads heads of any length, and all of a request for any time. This is its own protocol with limits; how large a
body may be, the application says (``common.limits``).
"""

from __future__ import annotations

import asyncio
import time

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32_768
"""Of a request, all that is not its body: request line, headers, trailers, what chunks are framed with."""

FRAMING = 8
"""A byte of a body may come with this many around it: a chunk of one byte has five."""

CLIENT_SECONDS = 10
"""A connection on which nothing is being answered is closed when the client has not sent a whole request by then."""

CONNECTIONS = 512
"""Of one process. When there are more, the one that has kept us waiting longest is closed."""


class Guarded(HttpToolsProtocol):
    """One connection. ``waiting_since`` is when its client's turn began; none while it waits for an answer."""

    waiting_since: float | None
    _bytes = 0
    _kept = 0
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, at the cost of another one when there are too many."""
        super().connection_made(transport)
        self.waiting_since = time.monotonic()
        if len(self.connections) > CONNECTIONS:
            waiting = [one for one in self.connections if isinstance(one, Guarded) and one.waiting_since is not None]
            longest = min(waiting, key=lambda one: one.waiting_since or 0)  # never empty: self is new, and waits
            self.connections.discard(longest)  # else it would be found again, before it has gone
            longest.transport.abort()
        self._watch()

    def _watch(self) -> None:
        """Look at the connection now and then, until it is gone."""
        if self.parser is None:
            return
        if self.transport.is_closing():
            self.loop.call_later(CLIENT_SECONDS / 4, self.transport.abort)  # if nobody takes what is left to be sent
        elif self.waiting_since is not None and time.monotonic() - self.waiting_since > CLIENT_SECONDS:
            self.transport.abort()
        else:
            self.loop.call_later(CLIENT_SECONDS / 4, self._watch)

    def data_received(self, data: bytes) -> None:
        """Read on, unless it is too much."""
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > HEAD_BYTES + (1 + FRAMING) * self._body_bytes and not self.transport.is_closing():
            self.logger.warning("Refused a request whose head is too large.")
            self.send_400_response("The head of the request is too large.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, unless it is too much: many come in one piece of data."""
        self._kept += len(name) + len(value)
        if self._kept > HEAD_BYTES:
            raise ValueError("the head is too large")  # the parser makes it 400
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Count it."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is our turn. Begin to count anew."""
        self.waiting_since = None
        self._bytes = self._body_bytes = self._kept = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is the client's turn, unless it has sent the whole next request already."""
        self.waiting_since = None if self.pipeline and not self.cycle.more_body else time.monotonic()
        super().on_response_complete()
