"""How is a service run? ``python -m common.serve SERVICE PORT``: uvicorn, with limits (``common.front``).

Forwarded addresses are believed from TRUSTED_PROXIES alone
(``common.service``), so uvicorn's own way with them is off: it would believe everybody on loopback.
"""

from __future__ import annotations

import sys

import uvicorn

from common.front import Guarded


def main(service: str, port: int, host: str = "0.0.0.0") -> None:  # noqa: S104 - a container has this one only
    """Serve until a signal says stop; what is being answered then has 8 seconds to end."""
    uvicorn.run(
        f"{service}.main:app",
        host=host,
        port=port,
        http=Guarded,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=8,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
