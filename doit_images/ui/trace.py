"""What happened in a run, as a trace for Perfetto (ui.perfetto.dev) and chrome://tracing?

The Trace Event Format: each image is a process, its build the first thread, its steps on as many threads below as
ran at once; arrows lead from a parent's end to its children.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from doit_images.core.history.store import Build
from doit_images.ui.statistics import on_tracks, timeline


def trace(run: Sequence[Build]) -> dict[str, Any]:
    """The run as a trace: plain data, to be written as JSON. Times are microseconds from the run's start."""
    lanes = timeline(run)
    start = min((lane.build.started - lane.began for lane in lanes), default=0.0)
    numbers = {lane.build.image: number for number, lane in enumerate(lanes, 1)}
    events: list[dict[str, Any]] = []
    for lane in lanes:
        pid = numbers[lane.build.image]
        events.extend(_named(pid, lane.build))
        if lane.began - lane.ready > 0:
            events.append(_slice("waits for a worker", (pid, 0), (lane.ready, lane.began - lane.ready), "waiting", {}))
        events.append(_slice(lane.build.image, (pid, 0), (lane.began, lane.build.seconds), "image", _facts(lane.build)))
        events.extend(_steps(lane.build, pid, start))
    return {"displayTimeUnit": "ms", "traceEvents": [*events, *_arrows(run, numbers, start)]}


def _named(pid: int, build: Build) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": build.image}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": 0, "args": {"name": "image"}}


def _steps(build: Build, pid: int, start: float) -> Iterator[dict[str, Any]]:
    for step, begin, track in on_tracks(build.steps):
        facts = {"cached": step.cached, "why": step.why, "error": step.error}
        yield _slice(step.name, (pid, track + 1), (begin - start, step.seconds), step.outcome, facts)


def _arrows(run: Sequence[Build], numbers: dict[str, int], start: float) -> Iterator[dict[str, Any]]:
    by_name = {build.image: build for build in run}
    for build in run:
        for parent in (by_name[name] for name in build.parents if name in by_name):
            # a flow belongs to the slice around its point, so it leaves just before the parent ends
            both = {"name": "needs", "cat": "needs", "id": f"{parent.image}>{build.image}", "tid": 0}
            leaves = max(parent.started, parent.ended - 1e-5)
            yield {**both, "ph": "s", "pid": numbers[parent.image], "ts": _micro(leaves - start)}
            yield {**both, "ph": "f", "bp": "e", "pid": numbers[build.image], "ts": _micro(build.started - start)}


def _slice(
    name: str, thread: tuple[int, int], span: tuple[float, float], kind: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """A bar on a ``thread`` (its process and its number); ``span``: when it begins, and its seconds."""
    (pid, tid), (begin, seconds) = thread, span
    times = {"ts": _micro(begin), "dur": _micro(seconds)}
    return {"ph": "X", "name": name, "cat": kind, "pid": pid, "tid": tid, **times, "args": facts}


def _facts(build: Build) -> dict[str, Any]:
    return {"action": build.action, "status": build.status, "reasons": list(build.reasons), "ref": build.ref}


def _micro(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e6, 1)
