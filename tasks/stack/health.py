"""Is the stack well, and when is it?

    docker compose up ──> creates, starts (in the order of depends_on)
    the engine's events ──> look at the containers ──> a verdict for each service ──> all well, or one failed

Nothing sleeps and hopes: each event of the engine is a reason to look again. The verdicts are pure.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tasks.engine.containers import Container, Containers, Event

# A process that ends again and again does not become healthy by waiting; the engine doubles its pause each time.
RESTARTS = 5
# Events can be lost with the engine's connection; looking costs a few milliseconds.
_LOOK_SECONDS = 1.0
_WORST_FIRST = ("failed", "blocked", "waiting", "ready")


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds: for everything, and for one service beyond what its health check grants it."""

    overall: float
    service: float


@dataclass(frozen=True)
class Verdict:
    """How a service is, in one word, in more, and since when, by the epoch's seconds.

    ``ready``; ``waiting``; ``failed``; or ``blocked``: Compose ended without having started it.
    """

    state: str
    words: str
    since: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How waiting ended: the verdict of each service, its containers, what happened, and how long it took."""

    verdicts: Mapping[str, Verdict]
    containers: Sequence[Container]
    events: Sequence[Event]
    seconds: float

    @property
    def failed(self) -> dict[str, Verdict]:
        """The services that are to blame: those that failed, else those that had no more time, else the rest."""
        for state in ("failed", "waiting", "blocked"):
            if bad := {name: one for name, one in self.verdicts.items() if one.state == state}:
                return bad
        return {}

    @property
    def healthy(self) -> bool:
        """Whether every service is ready."""
        return not self.failed


Show = Callable[[Mapping[str, Verdict], float], None]


def wait(
    project: Containers,
    expected: Mapping[str, int],
    limits: Limits,
    *,
    working: Callable[[], bool],
    show: Show,
) -> Outcome:
    """Wait until every expected service (name → containers) is ready, one has failed, or the time is over.

    ``working`` says whether Compose is still at work: until it is not, a container that is not there may still come.
    ``show`` is called with the verdicts and the seconds so far, whenever they may have changed.
    """
    began, wall = time.monotonic(), time.time()
    happened: list[Event] = []
    with project.events() as events:
        before = {one.id: one for one in project.look()}
        while True:
            busy = working()
            containers = project.look()
            seconds = time.monotonic() - began
            verdicts = judge(expected, containers, before, limits.service, now=time.time(), since=wall, coming=busy)
            show(verdicts, seconds)
            states = {verdict.state for verdict in verdicts.values()}
            over = "failed" in states or (not busy and "waiting" not in states) or seconds > limits.overall
            happened += _drain(events, 0 if over else _LOOK_SECONDS)
            if over:
                return Outcome(verdicts, containers, happened, seconds)


def judge(
    expected: Mapping[str, int],
    containers: Sequence[Container],
    before: Mapping[str, Container],
    service_seconds: float,
    *,
    now: float,
    since: float,
    coming: bool,
) -> dict[str, Verdict]:
    """The verdict of each expected service. ``before``: the containers when the waiting began, by id, ``since``: when
    that was, ``coming``: whether containers may still be created or started."""
    verdicts = {}
    for name, replicas in expected.items():
        own = [one for one in containers if one.service == name]
        each = [_judge(one, before.get(one.id), service_seconds, now, since, coming) for one in own]
        if len(own) < replicas:
            each.append(Verdict("waiting", "to be created") if coming else Verdict("blocked", "has no container"))
        verdicts[name] = min(each, key=lambda one: _WORST_FIRST.index(one.state))
    return verdicts


def _judge(
    one: Container, before: Container | None, service_seconds: float, now: float, since: float, coming: bool
) -> Verdict:
    # What Compose is about to replace or to start again may end as it likes.
    doomed = coming and before is not None
    again = one.restarts - (before.restarts if before else 0)
    if again >= RESTARTS and not doomed:
        return Verdict("failed", f"crash loop: restarted {again} times, last with status {one.exit_code}", one.started)
    if one.state == "created":
        return Verdict("waiting", "created") if coming else Verdict("blocked", "was created, but not started")
    if one.state == "restarting":
        return Verdict("waiting", f"ended with status {one.exit_code}, starting again", one.started)
    if one.state in ("exited", "dead"):
        if doomed:
            return Verdict("waiting", "stopped", one.started)
        if one.exit_code == 0 and not one.always:
            return Verdict("ready", "done", one.started)
        return Verdict("failed", f"ended with status {one.exit_code}", one.started)
    if one.state != "running":
        return Verdict("waiting", one.state, one.started)
    if one.health == "unhealthy":
        return Verdict("waiting" if doomed else "failed", "unhealthy", one.started)
    if one.health == "starting":
        patience = one.start_period + service_seconds
        if now - max(one.started, since) > patience and not doomed:
            return Verdict("failed", f"not healthy after {patience:.0f} s", one.started)
        return Verdict("waiting", "starting", one.started)
    return Verdict("ready", one.health or "running", one.started)


def _drain(events: queue.Queue[Event], seconds: float) -> list[Event]:
    """Everything that has happened by now; waits up to ``seconds`` for the first."""
    drained = []
    try:
        drained.append(events.get(timeout=seconds) if seconds else events.get_nowait())
        while True:
            drained.append(events.get_nowait())
    except queue.Empty:
        return drained
