"""Which way did a request take? With OTEL_EXPORTER_OTLP_ENDPOINT, spans of requests and of calls onwards go there.

They are OpenTelemetry's, sent by OTLP over HTTP; its other variables (OTEL_TRACES_SAMPLER, …) count too. The packages
are in the images only when those were built with TRACING=on.

A request goes on with the trace that it names (``traceparent``) when its credential is good. A stranger's begins anew:
else anybody could have every request taken, or put theirs into another's trace.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio
from fastapi import FastAPI, Request
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from common import logs
from common.callers import WHO, who_sent

log = logging.getLogger("tracing")

NOT_TRACED = "health,metrics"
STOP_SECONDS = 3
CARRIERS = (b"traceparent", b"tracestate", b"baggage")


def install(app: FastAPI, service: str) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Trace ``app`` if that is asked for. Returns what sends, at the end, what was not sent yet."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return nullcontext
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
        from opentelemetry.instrumentation.utils import suppress_instrumentation
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SystemExit(
            "Refusing to start.\nOTEL_EXPORTER_OTLP_ENDPOINT: this image cannot trace; build it with TRACING=on"
        ) from None

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=NOT_TRACED, exclude_spans=["receive", "send"],
        server_request_hook=_without_query,
    )  # fmt: skip
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    traced = app.build_middleware_stack
    app.build_middleware_stack = lambda: Known(traced(), suppress_instrumentation)  # type: ignore[method-assign]

    def trace_id() -> str:
        context = trace.get_current_span().get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else ""

    logs.trace_id = trace_id

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        try:
            yield
        finally:
            # In a thread that is left behind when nobody takes the spans.
            with anyio.move_on_after(STOP_SECONDS):
                await anyio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)

    return running


class Known:
    """Takes away which trace a request says that it is of, unless it is known who sent it. ``untraced``: while that is
    found out, no span is made."""

    def __init__(self, app: ASGIApp, untraced: Callable[[], AbstractContextManager[None]]) -> None:
        self._app = app
        self._untraced = untraced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the credential where there is a trace, and pass on."""
        if scope["type"] == "http" and any(name in CARRIERS for name, _ in scope["headers"]):
            try:
                with self._untraced():
                    await who_sent(Request(scope))
            except (HTTPException, RedisError) as error:
                kept = [(name, value) for name, value in scope["headers"] if name not in CARRIERS]
                scope = {**scope, "headers": kept, WHO: error}
        await self._app(scope, receive, send)


def _without_query(span: Any, scope: dict[str, Any]) -> None:
    """What people sent after the ``?`` is theirs, as it is in the logs."""
    if scope.get("query_string"):
        path = scope["path"]
        span.set_attributes({"http.target": path, "http.url": path, "url.query": "", "url.full": path})
