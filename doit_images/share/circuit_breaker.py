"""When is the registry given up?

A registry that dies or hangs during a run would cost each image the full time limit of a look-up, a pull or a push. So
a kind of request that fails several times in a row is not tried again. After a failure, and from time to time during a
long request, the run sends the registry a minimal request. If there is no answer, the run asks the registry nothing
more. A slow registry that answers is waited for. Everything here may be used by several threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from doit_images.share.no_answer import NoImage, Unavailable

LOOK_SECONDS = 5.0
"""How often the registry is asked while something goes on."""
PATIENCE = 8.0
"""Seconds for any answer: a registry that is started again takes some."""
_PAUSE_SECONDS = 0.5  # where nothing listens, which is known at once


class CircuitBreaker:
    """Opens when one kind of thing failed ``most`` times in a row."""

    def __init__(self, most: int) -> None:
        self._most, self._failures = most, 0
        self._lock = threading.Lock()
        self.any_good = False
        self.open = False
        """Whether it is not tried any more."""

    def good(self) -> None:
        """It went well."""
        with self._lock:
            self._failures, self.any_good = 0, True

    def bad(self, *, at_once: bool = False) -> bool:
        """Count a failure. Returns whether that opens the breaker; ``at_once`` opens it at the first failure. Only one
        caller gets true."""
        with self._lock:
            self._failures += 1
            opens = not self.open and (at_once or self._failures >= self._most)
            self.open = self.open or opens
            return opens


class HealthCheck:
    """What one run knows of the registry. ``ask`` raises ``Unavailable`` if there is no answer in so many seconds,
    ``lost`` is called once, if there is none."""

    def __init__(self, ask: Callable[[float], object], lost: Callable[[], object]) -> None:
        self._ask, self._lost = ask, lost
        self._lock = threading.Lock()
        self.gone = False
        """Whether this run asks the registry nothing more."""

    def fails(self) -> bool:
        """Ask the registry now; true if it does not answer any more. Raises ``Stopped``."""
        with self._lock:
            if not self.gone and self._is_silent():
                self.gone = True
                self._lost()
            return self.gone

    def _is_silent(self) -> bool:
        until = time.monotonic() + PATIENCE
        while (left := until - time.monotonic()) > 0:
            try:
                self._ask(left)
                return False
            except (Unavailable, NoImage) as error:
                if not (isinstance(error, Unavailable) and error.silent):
                    return False
            time.sleep(min(_PAUSE_SECONDS, max(0.0, until - time.monotonic())))
        return True
