"""Does the registry still answer anything at all?

One that is killed, or hangs, in the middle of a run would cost each image all the time that a look-up, a pull or a push
may take. So when one of these came to nothing, and now and then while one goes on, the registry is asked for the least
that it can say. One that says nothing is asked nothing more in this run; one that is slow, but answers, is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from doit_images.share.no_answer import Unavailable

LOOK_SECONDS = 5.0
"""How often that is asked while something goes on."""
PATIENCE = 8.0
"""Seconds for any answer: a registry that is started again takes some."""
_PAUSE_SECONDS = 0.5  # where nothing listens, which is known at once


class Pulse:
    """What one run knows of it; for several threads. ``ask`` raises ``Unavailable`` if there is no answer in so many
    seconds, ``lost`` is called once, if there is none."""

    def __init__(self, ask: Callable[[float], object], lost: Callable[[], object]) -> None:
        self._ask, self._lost = ask, lost
        self._lock = threading.Lock()
        self.gone = False
        """Whether it is given up."""

    def stopped(self) -> bool:
        """Whether the registry says nothing any more, asked now. Raises ``Stopped``."""
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
            except Unavailable as error:
                if not error.silent:
                    return False
            time.sleep(min(_PAUSE_SECONDS, max(0.0, until - time.monotonic())))
        return True
