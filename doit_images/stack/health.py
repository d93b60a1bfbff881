"""When is the stack healthy?

    docker compose up ──> creates, starts (in the order of depends_on)
    the engine's events ──> look at the containers ──> a verdict for each service ──> all healthy, or one failed

Nothing sleeps and hopes: each event of the engine is a reason to look again. The verdicts are pure.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from doit_images.stack.containers import Container, Containers, Event

# A process in a crash loop does not become healthy by waiting; the engine doubles its pause each time.
RESTARTS = 5
# Events can be lost with the engine's connection; looking costs a few milliseconds.
_LOOK_SECONDS = 1.0
# Where somebody may have had enough of waiting, that is asked this often.
_ASK_SECONDS = 0.1
# Where nothing checks it, a process that is going to fail for want of something has done so by then, mostly.
STEADY_SECONDS = 3.0


class Health(StrEnum):
    """How a service is, the worst first."""

    FAILED = "failed"
    BLOCKED = "blocked"
    """Compose ended without having started it."""
    WAITING = "waiting"
    READY = "ready"


@dataclass(frozen=True)
class WaitLimits:
    """How long to wait, in seconds: for everything, and for one service beyond what its health check grants it.
    ``enough``: whether nobody waits any longer, asked once Compose is done; for who goes on with something else."""

    overall: float
    service: float
    enough: Callable[[], bool] | None = None


@dataclass(frozen=True)
class ServiceHealth:
    """How a service is, in one word, in more, and since when, by the epoch's seconds."""

    state: Health
    words: str
    since: float = 0.0


@dataclass(frozen=True)
class Waited:
    """How waiting ended: the verdict of each service, its containers, how long it took, and whether nobody waited any
    longer (``WaitLimits.enough``)."""

    verdicts: Mapping[str, ServiceHealth]
    containers: Sequence[Container]
    seconds: float
    cut_short: bool = False

    @property
    def failed(self) -> dict[str, ServiceHealth]:
        """The services that are to blame: those that failed, else those that had no more time, else the rest."""
        for state in (Health.FAILED, Health.WAITING, Health.BLOCKED):
            if bad := {name: verdict for name, verdict in self.verdicts.items() if verdict.state == state}:
                return bad
        return {}

    @property
    def healthy(self) -> bool:
        """Whether every service is ready."""
        return not self.failed


Show = Callable[[Mapping[str, ServiceHealth], float], None]


def wait(
    project: Containers, expected: Mapping[str, int], limits: WaitLimits, *, working: Callable[[], bool], show: Show
) -> Waited:
    """Wait until every expected service (name → containers) is ready, one has failed, or the time is over.

    ``working`` says whether Compose is still at work: until it is not, a container that is not there may still come.
    ``show`` is called with the verdicts and the seconds so far, whenever they may have changed.
    """
    began, wall = time.monotonic(), time.time()
    seen: dict[tuple[str, float], float] = {}
    with project.events() as events:
        before = {container.id: container for container in project.look()}
        while True:
            busy = working()
            containers = project.look()
            seconds = time.monotonic() - began
            for container in containers:
                if container.running:
                    seen.setdefault((container.id, container.started), time.time())
            moment = Moment(before, limits.service, since=wall, now=time.time(), coming=busy, seen=seen)
            verdicts = judge(expected, containers, moment)
            show(verdicts, seconds)
            states = {verdict.state for verdict in verdicts.values()}
            over = Health.FAILED in states or (not busy and Health.WAITING not in states) or seconds > limits.overall
            cut_short = bool(not over and not busy and limits.enough and limits.enough())
            pause = _ASK_SECONDS if limits.enough else _LOOK_SECONDS
            if over or cut_short:
                return Waited(verdicts, containers, seconds, cut_short)
            _until_something_happens(events, pause)


@dataclass(frozen=True)
class Moment:
    """When services are judged: ``now``, in a wait that began at ``since`` with the containers ``before``, by id.
    ``service_seconds``: how long one may take beyond its start period; ``coming``: whether containers may still be
    created or started; ``seen``: when, by our clock, each was first seen running, by id and time of its start."""

    before: Mapping[str, Container]
    service_seconds: float
    since: float
    now: float
    coming: bool
    seen: Mapping[tuple[str, float], float] = field(default_factory=dict)


def judge(expected: Mapping[str, int], containers: Sequence[Container], moment: Moment) -> dict[str, ServiceHealth]:
    """The verdict of each expected service (name → containers)."""
    verdicts = {}
    for name, replicas in expected.items():
        own = [_judge(container, moment) for container in containers if container.service == name]
        if len(own) < replicas:
            to_come = ServiceHealth(Health.WAITING, "to be created")
            own.append(to_come if moment.coming else ServiceHealth(Health.BLOCKED, "has no container"))
        verdicts[name] = min(own, key=lambda verdict: list(Health).index(verdict.state))
    return verdicts


def _judge(container: Container, moment: Moment) -> ServiceHealth:
    before, started = moment.before.get(container.id), container.started
    # What Compose is about to replace or to start again may end as it likes.
    doomed = moment.coming and before is not None
    again = container.restarts - (before.restarts if before else 0)
    if again >= RESTARTS and not doomed:
        words = f"crash loop: restarted {again} times, last with status {container.exit_code}"
        return ServiceHealth(Health.FAILED, words, started)
    if container.state == "created":
        if moment.coming:
            return ServiceHealth(Health.WAITING, "created")
        if container.error:
            return ServiceHealth(Health.FAILED, f"could not be started: {container.error}")
        return ServiceHealth(Health.BLOCKED, "was created, but not started")
    if container.state == "restarting":
        return ServiceHealth(Health.WAITING, f"ended with status {container.exit_code}, starting again", started)
    if container.state in ("exited", "dead"):
        if doomed:
            return ServiceHealth(Health.WAITING, "stopped", started)
        if container.exit_code == 0 and not container.always:
            return ServiceHealth(Health.READY, "done", started)
        return ServiceHealth(Health.FAILED, f"ended with status {container.exit_code}", started)
    if container.state != "running":
        return ServiceHealth(Health.WAITING, container.state, started)
    if container.health == "unhealthy":
        return ServiceHealth(Health.WAITING if doomed else Health.FAILED, "unhealthy", started)
    if container.health == "starting":
        patience = container.start_period + moment.service_seconds
        if moment.now - max(started, moment.since) > patience and not doomed:
            return ServiceHealth(Health.FAILED, f"not healthy after {patience:.0f} s", started)
        return ServiceHealth(Health.WAITING, "starting", started)
    if not container.health and not _steady(container, before, moment):
        return ServiceHealth(Health.WAITING, "just started", started)
    return ServiceHealth(Health.READY, container.health or "running", started)


def _steady(container: Container, before: Container | None, moment: Moment) -> bool:
    """Whether a container that nothing checks has run for a while, or ran when the wait began."""
    if before is not None and before.running and before.started == container.started:
        return True
    seen = moment.seen.get((container.id, container.started), moment.now)
    return moment.now - seen >= STEADY_SECONDS


def _until_something_happens(events: queue.Queue[Event], seconds: float) -> None:
    """Wait until anything happens, or so many seconds are over. All that has happened by then is one reason to look."""
    with contextlib.suppress(queue.Empty):
        events.get(timeout=seconds)
        while True:
            events.get_nowait()
