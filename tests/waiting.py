"""How long does a test wait? Until what it waits for has come, and no test says in how many seconds that must be.

A machine that does other things takes ten times as long as it does alone. So whoever has waited for a minute measures
what starting Python takes at that moment, and gives up once it has taken thousands of times as long.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

_LEAST_SECONDS, _TIMES = 60.0, 4000.0
Answer = TypeVar("Answer")


def patience() -> float:
    """How many seconds to wait now for what takes no more than a few on a machine that does nothing else."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    return max(_LEAST_SECONDS, _TIMES * (time.monotonic() - began))


def until(condition: Callable[[], Answer], what: Callable[[], object] | str = "what it waits for") -> Answer:
    """Wait until ``condition`` gives something that counts as true, and return that. The test fails when it does not
    come for much too long, with ``what`` in its words."""
    began = time.monotonic()
    while not (answer := condition()):
        waited = time.monotonic() - began
        if waited > _LEAST_SECONDS and waited > patience():
            pytest.fail(f"it did not come in {waited:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.02)
    return answer
