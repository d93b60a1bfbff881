"""How does the service do? ``GET /metrics`` tells Prometheus: requests, how long they took, what did not answer.

It is there only with METRICS_TOKEN, for who sends that as a bearer token: paths and numbers are nobody else's business.
Where a service has several processes they count together, in files of PROMETHEUS_MULTIPROC_DIR (``common.serve``).
"""

from __future__ import annotations

import hmac
import os

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import Scope

REQUESTS = Counter("swarm_requests", "Requests that were answered.", ["service", "method", "route", "status"])
SECONDS = Histogram(
    "swarm_request_seconds", "How long they took.", ["service", "route"], buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60)
)
UNAVAILABLE = Counter("swarm_unavailable", "Times that a store or service did not answer.", ["what"])
TOKENS = Counter("swarm_tokens", "Tokens that models read and wrote.")
TASKS = Gauge("swarm_tasks", "Tasks that are here now, with or without a place.", multiprocess_mode="livesum")


def answered(service: str, scope: Scope, status: int, seconds: float) -> None:
    """Count a request. Paths that no route knows are one: anybody can think of as many as they like."""
    route = getattr(scope.get("route"), "path", "")
    REQUESTS.labels(service, scope["method"] if route else "", route, str(status)).inc()
    SECONDS.labels(service, route).observe(seconds)


def install(app: FastAPI, token: str) -> None:
    """Add ``GET /metrics`` to ``app``, for who knows ``token``."""
    if not token:
        return
    from common.problems import unauthorized  # that counts here

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise unauthorized("This takes METRICS_TOKEN as a bearer token.")
        return Response(generate_latest(_registry()), media_type=CONTENT_TYPE_LATEST)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        MultiProcessCollector(registry)
        return registry
    for one in (REQUESTS, SECONDS, UNAVAILABLE, TOKENS, TASKS):
        registry.register(one)
    return registry
