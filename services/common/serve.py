"""How is a service run? ``python -m common.serve SERVICE PORT``: uvicorn, with limits (``common.front``).

WORKERS processes (1) share the port. Forwarded addresses are believed from TRUSTED_PROXIES alone
(``common.service``), so uvicorn's own way with them is off: it would believe everybody on loopback.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile

import uvicorn

from common.front import Guarded
from common.settings import load


def main(service: str, port: int, host: str = "0.0.0.0") -> None:  # noqa: S104 - a container has this one only
    """Serve until a signal says stop; what is being answered then has 8 seconds to end."""
    # Here too: workers that refuse to start would be started again for ever.
    load(getattr(importlib.import_module(f"{service}.settings"), f"{service.capitalize()}Settings"))
    workers = int(os.environ.get("WORKERS") or 1)
    if workers > 1:
        # Before a worker imports what reads it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="metrics-")
    uvicorn.run(
        f"{service}.main:app",
        host=host,
        port=port,
        http=Guarded,
        workers=workers,
        timeout_worker_healthcheck=30,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=8,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
