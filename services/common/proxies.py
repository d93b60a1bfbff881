"""From which address does a request come? A proxy's word is taken when it is one of TRUSTED_PROXIES, and nobody else's.

Beside addresses and networks these may be names, as that of the proxy in the Compose file, whose address the engine
chooses. A name is looked up when somebody has sent X-Forwarded-For, once in ``FRESH_SECONDS`` at most; when that fails,
what is known of it stays.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from ipaddress import ip_network

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FRESH_SECONDS = 5
_NOBODY = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_NAME = re.compile(r"(?=.*[a-z])[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.I)


def parted(proxies: str) -> tuple[list[str], list[str]]:
    """The networks and addresses, and the names, of a list with commas. ``ValueError`` for what is neither."""
    words = [word.strip() for word in proxies.split(",")] if proxies.strip() else []
    names = [word for word in words if _NAME.fullmatch(word)]
    networks = [word for word in words if word not in names]
    for network in networks:
        ip_network(network)
    return networks, names


class Proxies:
    """Tells the application who asks, not which of the proxies ``trusted`` (as ``parted`` reads it) passed it on."""

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self._app = app
        self._networks, self._names = parted(trusted)
        self._looked_up = float("-inf")
        self._known: dict[str, list[str]] = {}
        self._believing = self._with([])

    def _with(self, addresses: list[str]) -> ProxyHeadersMiddleware:
        return ProxyHeadersMiddleware(self._app, [*self._networks, *addresses])  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the client's address into ``scope``, and pass on."""
        forwarded = scope["type"] == "http" and any(name == b"x-forwarded-for" for name, _ in scope["headers"])
        if forwarded and self._names and time.monotonic() - self._looked_up > FRESH_SECONDS:
            self._looked_up = time.monotonic()
            known = {name: await _addresses(name, self._known.get(name, [])) for name in self._names}
            if known != self._known:
                self._known, self._believing = known, self._with([one for some in known.values() for one in some])
        await self._believing(scope, receive, send)  # type: ignore[arg-type]


async def _addresses(name: str, known: list[str]) -> list[str]:
    """The addresses of a host; none when nobody has the name, and those that are ``known`` when nobody tells."""
    try:
        async with asyncio.timeout(1):
            infos = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:  # a time limit is one, too
        nobody = isinstance(error, socket.gaierror) and error.errno in _NOBODY
        return [] if nobody else known
    return sorted({str(info[4][0]) for info in infos})
