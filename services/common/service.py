"""What makes an application one of ours? Logs, limits, problem documents, health, and stores that open and close."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI, Request

from common import health, logs, metrics, openapi, problems, tracing
from common.callers import Route
from common.limits import BodyLimit, Deadline
from common.proxies import Proxies
from common.requests import RequestLog
from common.settings import ServiceSettings

log = logging.getLogger("service")


def create(
    name: str,
    settings: ServiceSettings,
    *,
    resources: Sequence[AbstractAsyncContextManager[object]],
    checks: Mapping[str, health.Check],
    identify: Callable[[Request], Awaitable[object]],
) -> FastAPI:
    """An application called ``name``.

    ``resources`` (stores, clients) are entered when it starts and left, last first, when it stops;
    ``checks`` are what ``/health`` asks; ``identify`` knows who sent a request. Nothing connects before the start.
    """
    logs.configure(name, settings.log_level)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for resource in (traced(), *resources):
                await stack.enter_async_context(resource)
            log.info("started")
            yield
            log.info("stopping")

    # Operations are called as their functions are, and so are the functions of a client that is generated from this.
    app = FastAPI(title=name, lifespan=lifespan, redoc_url=None, generate_unique_id_function=lambda route: route.name)
    app.state.identify, app.router.route_class = identify, Route
    problems.install(app)
    openapi.install(app)
    health.install(app, name, checks)
    metrics.install(app, settings.metrics_token.get_secret_value())
    traced = tracing.install(app, name)
    # The last added is the outermost.
    app.add_middleware(Deadline, seconds=settings.longest_seconds)
    app.add_middleware(RequestLog, service=name)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    if settings.trusted_proxies:
        app.add_middleware(Proxies, trusted=settings.trusted_proxies)
    return app
