"""How is a service run? ``python -m common.serve SERVICE PORT``: uvicorn, with limits (``common.front``).

WORKERS processes (1) share the port. Forwarded addresses are believed from TRUSTED_PROXIES alone
(``common.service``), so uvicorn's own way with them is off: it would believe everybody on loopback.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
from functools import partial
from math import ceil
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from common import logs
from common.front import Guarded
from common.settings import ServiceSettings, load


def settings_of(service: str) -> ServiceSettings:
    """What ``service`` is told."""
    return load(getattr(importlib.import_module(f"{service}.settings"), f"{service.capitalize()}Settings"))


def application(service: str) -> FastAPI:
    """What each process runs."""
    return importlib.import_module(f"{service}.app").create_app(settings_of(service))  # type: ignore[no-any-return]


class Port:
    """Goes to a process in the place of a socket, and is there one of its own: the system divides connections between
    these. Of one socket that all listen on, whoever wakes first takes all there are, and others have nothing to do."""

    def __init__(self, host: str, port: int) -> None:
        self.listen = partial(socket.create_server, (host, port), reuse_port=True)

    def __reduce__(self) -> Any:
        return self.listen, ()


def main(service: str, port: int, host: str = "0.0.0.0") -> None:  # noqa: S104 - a container has this one only
    """Serve until a signal says stop; what is being answered then has as long as a request may take to end."""
    settings = settings_of(service)  # here too: workers that refuse to start would be started again for ever
    logs.configure(service, settings.log_level)  # and here: it says when a worker has died
    workers = int(os.environ.get("WORKERS") or 1)
    if workers > 1:
        # Before a worker imports what reads it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="metrics-")
    config = uvicorn.Config(
        partial(application, service), factory=True, host=host, port=port, http=Guarded, ws="none", access_log=False,
        workers=workers, timeout_worker_healthcheck=30, timeout_graceful_shutdown=ceil(settings.longest_seconds),
        server_header=False, proxy_headers=False, log_config=None,
    )  # fmt: skip
    if workers > 1:
        Multiprocess(config, [Port(host, port)]).run()  # type: ignore[list-item]
    else:
        uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
