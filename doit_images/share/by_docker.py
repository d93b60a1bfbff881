"""How do images travel between the engine and a registry, in bounded time?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from doit_images.core.base import commands
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.share.circuit_breaker import LOOK_SECONDS, HealthCheck
from doit_images.share.no_answer import told

_SLOWEST = 1_000_000  # bytes a second below which building is taken to be the faster way
_GRACE_SECONDS = 20.0
_BUSY = re.compile(r"toomanyrequests|too many requests", re.I)
_RESTARTS = re.compile(r"connection (refused|reset)", re.I)


LATE = "not done in"
"""So begins what is wrong where the time was over."""


def moved(
    argv: Sequence[str], engine: Engine, size: int, health: HealthCheck,
    rests: Callable[[int], bool] = lambda number: False,
) -> str:  # fmt: skip
    """Run a docker command within the time that so many bytes may take, and while the registry answers; returns what is
    wrong, "" if nothing is. It runs again where the registry was just being started, and where it is too busy for the
    engine, if ``rests`` waited for it (for the so-and-so-many-th time, from 0). Raises ``Stopped``."""
    limit = _GRACE_SECONDS + size / _SLOWEST
    for number in itertools.count():
        try:
            done = watched(argv, leading_to(engine.address), limit, health)
        except commands.TimedOut:
            return f"{LATE} {limit:.0f} s"
        if not done.status:
            return ""
        restarts = number == 0 and _RESTARTS.search(done.why) and not health.fails()
        if not restarts and not (_BUSY.search(done.why) and rests(number)):
            return told(done.why)
    raise AssertionError("it never ends without an answer")


def watched(argv: Sequence[str], environ: Mapping[str, str], seconds: float, health: HealthCheck) -> commands.Done:
    """Run a command that is stopped, too, when the registry says nothing any more."""
    output = b""
    with commands.start(argv, env=environ, seconds=seconds) as process:
        for piece in process.output(LOOK_SECONDS):
            output += piece
            if not piece and health.fails():
                process.stop()
    return commands.Done(process.returncode, output, "", environ)
