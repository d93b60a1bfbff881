"""orchestrator as the image runs it, a process of uvicorn: who leaves it in the middle of the answer, and which way a
request takes to the model."""

from __future__ import annotations

import gzip
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from common import service

SERVICES = Path(service.__file__).parents[1]

type Process = tuple[httpx.Client, list[str]]
"""A client of it, and what it has written by now."""


@contextmanager
def orchestrator(database: dict[str, Any], auth: Any, memory: Any, model_url: str, **more: str) -> Iterator[Process]:
    """The service as a process, which is stopped at the end, with ``more`` in its environment."""
    environ = {"AUTH_URL": auth.url, "MEMORY_URL": memory.url, "MODEL_URL": model_url, "MODEL_NAME": "echo"}
    environ |= {"POSTGRES_DB": database["postgres_db"], **more}
    process = subprocess.Popen(
        [sys.executable, "-m", "common.serve", "orchestrator", "0", "127.0.0.1"],
        cwd=SERVICES, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if listening := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listening[1]}", timeout=None) as http:
            while http.get("/health").status_code != 200:
                time.sleep(0.05)
            yield http, lines
        process.send_signal(signal.SIGTERM)
        assert process.wait() in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_may_come_again_with_the_key_of_the_task(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str], stream: bool,
    words: threading.Semaphore,
) -> None:  # fmt: skip
    with orchestrator(database, auth, memory, model_url, MODELS="slow") as (http, _):
        body = {"prompt": "a story", "model": "slow", "stream": stream}
        headers = {**user, "Idempotency-Key": "1"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{http.base_url}/tasks", json=body, headers=headers, timeout=0.8)
        words.release(100)
        while (task := http.post("/tasks", json=body, headers=headers)).json()["state"] in ("queued", "running"):
            time.sleep(0.05)
        assert (task.status_code, task.json()["state"], task.json()["error"]) == (200, "done", None)
        assert len(http.get("/tasks", headers=user).json()["tasks"]) == 1


async def test_who_leaves_stops_the_task(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str]
) -> None:
    with orchestrator(database, auth, memory, model_url, MODELS="slow") as (http, _):
        http.headers.update(user)
        body = {"prompt": "a long story", "model": "slow", "stream": True}
        with http.stream("POST", "/tasks", json=body) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            while not next(lines).startswith("event: token"):
                pass
            [task] = http.get("/tasks").json()["tasks"]
            assert task["state"] == "running"
        while (task := http.get("/tasks").json()["tasks"][0])["state"] == "running":
            time.sleep(0.05)
    assert task["state"] == "cancelled"
    assert task["error"].endswith("nobody waited for the answer.")


def stop(lines: list[str]) -> None:
    """What an engine does to a container: tell the process, whose ``lines`` these are, to stop."""
    os.kill(int(re.search(r"server process \[(\d+)\]", "".join(lines))[1]), signal.SIGTERM)  # type: ignore[index]


def streamed(http: httpx.Client, path: str, body: dict[str, Any], began: threading.Event) -> str:
    """The events of an answer, to its end; ``began`` when there are some."""
    with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        text = ""
        for piece in answer.iter_text():
            text += piece
            began.set()
    return text


CHAT: dict[str, Any] = {"model": "slow", "messages": [{"role": "user", "content": "a long story"}], "stream": True}
BOTH: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/tasks", {"prompt": "a long story", "model": "slow", "stream": True}), ("/v1/chat/completions", CHAT),
)  # fmt: skip


async def test_a_restart_lets_answers_end_and_begins_nothing(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str], words: threading.Semaphore
) -> None:
    environ = {"MODELS": "slow", "MODEL_CONCURRENCY": "3", "REQUEST_SECONDS": "20"}
    with ThreadPoolExecutor() as pool, orchestrator(database, auth, memory, model_url, **environ) as (http, lines):
        http.headers.update(user)
        begun = [threading.Event() for _ in BOTH]
        told = [pool.submit(streamed, http, *one, began) for one, began in zip(BOTH, begun, strict=True)]
        while not all(one.wait(0.2) for one in begun):
            words.release()
        waits = pool.submit(http.post, "/v1/chat/completions", json=CHAT)  # a user has two places of three
        while len(http.get("/tasks").json()["tasks"]) < 3:
            time.sleep(0.05)
        kept = http.post("/tasks", json={"prompt": "b", "background": True, "model": "slow"}).json()
        stop(lines)
        refused = waits.result()
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        time.sleep(10)  # longer than the engine's own patience
        assert not any(one.done() for one in told)
        words.release(10_000)
        ends = [one.result() for one in told]
        assert "event: done" in ends[0]
        assert ends[1].endswith("data: [DONE]\n\n")
    assert "Traceback" not in "".join(lines)
    with orchestrator(database, auth, memory, model_url, **environ) as (http, _):  # it is back
        http.headers.update(user)
        while http.get(f"/tasks/{kept['id']}").json()["state"] != "done":
            time.sleep(0.05)


async def test_an_answer_that_a_restart_cuts_says_so(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str], words: threading.Semaphore
) -> None:
    environ = {"MODELS": "slow", "MODEL_TIMEOUT_SECONDS": "4"}
    with ThreadPoolExecutor() as pool, orchestrator(database, auth, memory, model_url, **environ) as (http, lines):
        http.headers.update(user)
        begun = threading.Event()
        told = pool.submit(streamed, http, "/v1/chat/completions", CHAT, begun)
        while not begun.wait(0.2):
            words.release()
        stop(lines)
        last = json.loads(told.result().strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["code"] in (503, 504)
        words.release(10_000)
    assert "Traceback" not in "".join(lines)


class Collector(BaseHTTPRequestHandler):
    """Takes spans, as a collector of OpenTelemetry does (OTLP over HTTP)."""

    spans: ClassVar[list[tuple[str, Any]]] = []
    """Of which service, and the span."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        data = gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data
        assert self.path == "/v1/traces"
        for one in ExportTraceServiceRequest.FromString(data).resource_spans:
            names = {pair.key: pair.value.string_value for pair in one.resource.attributes}
            self.spans.extend((names["service.name"], span) for scope in one.scope_spans for span in scope.spans)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[str]:
    """The address of a collector, which has nothing yet."""
    Collector.spans.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


async def test_a_stranger_begins_a_trace_of_its_own(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str], collector: str
) -> None:
    """Here only what somebody asks for is taken, so that nothing of a stranger's is."""
    sent: list[str] = []
    tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    with orchestrator(database, auth, memory, model_url, **tracing) as (http, lines):
        for who in ({}, {"X-API-Key": "vls_bad"}, user, {"X-API-Key": "vls_good"}):
            sent.append(secrets.token_hex(16))
            told = {"traceparent": f"00-{sent[-1]}-{secrets.token_hex(8)}-01", "baggage": "a=b", **who}
            expected = 401 if len(sent) <= 2 else 200
            assert http.get("/tasks", headers=told).status_code == expected
    assert {span.trace_id.hex() for _, span in Collector.spans} & set(sent) == set(sent[2:])
    named = [json.loads(one).get("trace_id") for one in lines if '"path": "/tasks"' in one]
    assert len(named) == 4
    assert named[2:] == sent[2:]
    assert not set(named[:2]) & set(sent)


async def test_a_request_is_one_trace_up_to_the_model(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str], collector: str
) -> None:
    import server as model

    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "METRICS_TOKEN": "t"}
    with orchestrator(database, auth, memory, model_url, **tracing) as (http, lines):
        told = {**user, "traceparent": f"00-{trace}-{parent}-01"}
        assert http.post("/tasks?private=yes", json={"prompt": "Which colour?"}, headers=told).status_code == 201

    spans = {span.span_id.hex(): span for service, span in Collector.spans if service == "orchestrator"}
    assert {span.trace_id.hex() for span in spans.values() if span.name != "GET"} == {trace}  # no /health
    [(root, served)] = [(one, span) for one, span in spans.items() if span.parent_span_id.hex() == parent]
    assert served.name == "POST /tasks"
    called = [headers["traceparent"] for _, path, headers, _ in (*auth.requests, *memory.requests) if path != "/jwks"]
    assert len(called) == 4  # exchange, two searches, keep
    for _, within, span, _ in (one.split("-") for one in (*called, model.traces[-1])):
        assert within == trace
        while span != root:  # each call, or what it was a part of, was made for this request
            span = spans[span].parent_span_id.hex()
    assert "private" not in str(spans)
    assert user["Authorization"].split()[1] not in str(spans)
    [line] = [json.loads(one) for one in lines if '"path": "/tasks"' in one]
    assert line["trace_id"] == trace
