"""``--events=json``: what editors and agents may rely on, as docs/seeing-builds.md promises it."""

from __future__ import annotations

import io
import json
import queue
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from doit_images.core.base.task_names import PLAIN
from doit_images.stack.events import HealthChecked
from doit_images.stack.health import Health, ServiceHealth
from doit_images.ui.event_lines import EventLines
from tests.conftest import ROOT, Lab

FILES = {
    "compose.yml": """
        services:
          base: {image: PREFIX/base, build: base}
          web: {image: PREFIX/web, build: {context: web, additional_contexts: {base: "service:base"}}}
          top: {image: PREFIX/top, build: {context: top, additional_contexts: {web: "service:web"}}}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nRUN echo PREFIX\n",
    "web/Dockerfile": "FROM base\nRUN echo said; exit 3\n",
    "top/Dockerfile": "FROM web\nRUN true\n",
}


def promised() -> dict[str, set[str]]:
    """The keys of each event, as the table of the page has them."""
    page = (ROOT / "docs/seeing-builds.md").read_text().partition("## For programs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", page, re.MULTILINE)
    return {event: set(re.findall(r"`(\w+)`", keys)) for event, keys in rows}


def told(text: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in text.splitlines()]
    for one in events:
        assert one.keys() - {"event", "time"} == promised()[one["event"]], one
    return events


@pytest.mark.engine
def test_a_run_is_told_line_by_line(lab: Lab, busybox: str) -> None:
    lab.write(FILES)
    done = lab.doit("run", "--continue", "build_optimized", "--events=json")
    events = told(done.stdout)
    kinds = [(one["event"], one.get("image"), one.get("state")) for one in events]
    assert kinds[0][0] == "planned"
    assert events[0]["images"]["web"] == {"action": "build", "seconds": None}
    assert ("ended", "base", "built") in kinds
    assert [one["reasons"] for one in events if one["event"] == "started"] == [["never built here"]] * 2
    steps = [(one["step"], one["state"]) for one in events if one["event"] == "step" and one["image"] == "web"]
    (step, state) = steps[-1]
    assert (step.partition(" ")[2], state) == ("RUN echo said; exit 3", "failed")
    failed = {one["image"]: one["text"] for one in events if one["event"] == "failed"}
    assert failed.keys() == {"web", "top", None}, "and what was asked for"
    assert "ended with exit status 3" in failed["web"]
    assert done.returncode == 2
    assert f"failed web: {step}" in done.stderr, "people are told as ever"
    again = told(lab.doit("build_optimized:base", "-q", "--events=json").stdout)
    assert [(one["event"], one["image"], one["state"]) for one in again] == [("ended", "base", "fresh")]


@pytest.mark.engine
def test_spans_of_a_build_go_where_opentelemetry_is_told(lab: Lab, busybox: str) -> None:
    """buildx sends them itself: what leads it there is passed on to it."""
    got = queue.Queue[tuple[str, bytes]]()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.put((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Not to the terminal."""

    lab.write(FILES)
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        lab.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
        lab.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
        assert lab.doit("build_optimized:base").returncode == 0
        server.shutdown()
    paths = dict(got.get() for _ in range(got.qsize()))
    assert b"buildx" in paths["/v1/traces"]


def test_how_services_are_is_told_when_it_changes() -> None:
    stream = io.StringIO()
    lines = EventLines(stream, PLAIN)
    for state, seconds in ((Health.WAITING, 0.1), (Health.WAITING, 0.2), (Health.READY, 0.3)):
        lines.heard(HealthChecked({"db": ServiceHealth(state, state.value)}, seconds))
    assert [one["services"]["db"]["state"] for one in told(stream.getvalue())] == ["waiting", "ready"]
