"""How does the service do? ``GET /metrics`` tells Prometheus: requests, the queue, models, and what did not answer.

It is there only with METRICS_TOKEN, for who sends that as a bearer token: paths and numbers are nobody else's business.
Where a service has several processes they count together, in files of PROMETHEUS_MULTIPROC_DIR (``common.serve``).
"""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.exceptions import HTTPException
from starlette.types import Scope

REQUESTS = Counter("swarm_requests", "Requests that were answered.", ["service", "method", "route", "status"])
SECONDS = Histogram(
    "swarm_request_seconds", "How long they took.", ["service", "route"], buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60)
)
UNAVAILABLE = Counter("swarm_unavailable", "Times that a store or service did not answer.", ["what"])
TOKENS = Counter("swarm_tokens", "Tokens that models read and wrote.", ["model", "kind"])
TASKS = Gauge("swarm_tasks", "Tasks that are here now: waiting for a place, or having one.", ["state", "model"],
              multiprocess_mode="livesum")  # fmt: skip
LONG = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
WAITED = Histogram("swarm_wait_seconds", "How long tasks waited for a place.", buckets=LONG)
ANSWERED = Histogram("swarm_model_seconds", "How long models took, to the end.", ["model", "outcome"], buckets=LONG)
CALLERS_FAULT = (400, 413, 422)
"""With these a model refuses a question that is wrong; 404 (no such model) and 429 (busy) are the operator's."""
FIRST = Histogram("swarm_first_token_seconds", "From a question to the first of its answer.", ["model"], buckets=LONG)
CONNECTIONS = Gauge("swarm_connections", "Connections in use.", ["to"], multiprocess_mode="livesum")
REFUSED = Counter("swarm_refused", "Requests refused since there were too many, of a user or in all.", ["why"])
CHORES = Counter("swarm_chores", "Times that a service tidied up.", ["chore", "outcome"])
AUDITED = Counter("swarm_audit", "Events of the audit log.", ["event"])


def answered(service: str, scope: Scope, status: int, seconds: float) -> None:
    """Count a request. Paths that no route knows are one: anybody can think of as many as they like."""
    route = getattr(scope.get("route"), "path", "")
    REQUESTS.labels(service, scope["method"] if route else "", route, str(status)).inc()
    SECONDS.labels(service, route).observe(seconds)


@contextmanager
def model_asked(model: str) -> Iterator[None]:
    """Count how long ``model`` takes for what is done meanwhile, and its outcome: answered, refused (the question was
    wrong), failed, or stopped, as its time was over or nobody waited."""
    began, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "answered"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "stopped"
        raise
    except HTTPException as error:
        outcome = "refused" if error.status_code in CALLERS_FAULT else "failed"
        raise
    finally:
        ANSWERED.labels(model, outcome).observe(time.perf_counter() - began)


def install(app: FastAPI, token: str) -> None:
    """Add ``GET /metrics`` to ``app``, for who knows ``token``."""
    if not token:
        return
    from common.callers import OPEN  # they count here
    from common.problems import unauthorized

    @app.get("/metrics", include_in_schema=False, dependencies=[OPEN])
    async def metrics(request: Request) -> Response:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise unauthorized("This takes METRICS_TOKEN as a bearer token.")
        return Response(generate_latest(_registry()), media_type=CONTENT_TYPE_LATEST)


def _registry() -> CollectorRegistry:
    if not (folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR")):
        return REGISTRY
    for file in Path(folder).glob("gauge_live*.db"):
        if not Path(f"/proc/{(pid := file.stem.rpartition('_')[2])}").exists():
            mark_process_dead(int(pid))
    MultiProcessCollector(registry := CollectorRegistry())
    return registry
