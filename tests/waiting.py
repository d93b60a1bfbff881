"""How long does a test wait? Until what it waits for has come, and no test says in how many seconds that must be.

A machine that does other things takes ten times as long as it does alone. So time is counted in how long it takes at
that moment to start Python: a second is what is one on a machine that does nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

_START_SECONDS = 0.012  # what that takes there
_USUAL_SECONDS = 60.0  # for what takes a few
_POLL_SECONDS = 0.02
Answer = TypeVar("Answer")


def patience(seconds: float = _USUAL_SECONDS) -> float:
    """How long to wait now for what comes within so many seconds on a machine that does nothing else."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    return seconds * max(1.0, (time.monotonic() - began) / _START_SECONDS)


def comes(condition: Callable[[], Answer], seconds: float = _USUAL_SECONDS) -> Answer:
    """Wait until ``condition`` gives something that counts as true, at most ``patience``; what it gave last."""
    began = time.monotonic()
    asked = began
    while not (answer := condition()):
        now = time.monotonic()
        if now - began > seconds and now - began > patience(seconds):
            break
        # What takes a process to ask is asked less often: else who waits takes the processor from what it waits for.
        time.sleep(max(_POLL_SECONDS, now - asked))
        asked = time.monotonic()
    return answer


def until(condition: Callable[[], Answer], what: Callable[[], object] | str = "what it waits for") -> Answer:
    """Wait until ``condition`` gives something that counts as true, and return that; else the test fails with ``what``
    in its words."""
    if not (answer := comes(condition)):
        pytest.fail(f"it did not come: {what() if callable(what) else what}")
    return answer


def lasting(seconds: float) -> Callable[[], bool]:
    """Whether less than so many seconds have passed since now: for what goes on for a while, whatever it gets done."""
    began = time.monotonic()
    return lambda: time.monotonic() - began < seconds
