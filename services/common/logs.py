"""How does a service say what it does? One JSON object a line, on standard output."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered: in every line, every answer and every call onwards."""

address: ContextVar[str] = ContextVar("address", default="")
"""Where that request came from."""

trace_id: Callable[[], str] = str
"""Tells the id of the trace that the request is a part of, where that is known (``common.tracing``)."""


FORMAT = JsonFormatter(
    ["levelname", "name", "message"],
    rename_fields={"levelname": "level", "name": "logger"},
    timestamp="time",
    reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn says it again, in colour
)


def configure(service: str, level: str, stream: TextIO | None = None) -> None:
    """Send every logger's records of at least ``level``, uvicorn's too, to standard output (``stream``) as JSON."""

    def add_context(record: logging.LogRecord) -> bool:
        record.service = service
        if current := request_id.get():
            record.request_id = current
        if trace := trace_id():
            record.trace_id = trace
        return True

    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(FORMAT)
    handler.addFilter(add_context)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # It says every request that the client makes; the service called says it already.
    logging.getLogger("httpx").setLevel(logging.WARNING)
