"""For how long has a build said nothing, and when is that worth a word?"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 5.0
"""How often it is worth looking."""
_MINUTES = (1, 2, 5, 10, 20, 30)  # and each hour


class Silence:
    """The time since a build last said something; each of some lengths is told once."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.broken()

    def broken(self) -> None:
        """It said something."""
        self._since = self._now()
        self._told = 0

    def grown(self) -> str:
        """In words, if it has become longer than what was told last; else "".

        >>> clock = iter([0, 59, 61, 90, 130, 7300])
        >>> silence = Silence(lambda: next(clock))
        >>> [silence.grown() for _ in range(5)]
        ['', 'no output for a minute', '', 'no output for 2 minutes', 'no output for 120 minutes']
        """
        minutes = int((self._now() - self._since) // 60)
        reached = minutes // 60 * 60 or max((mark for mark in _MINUTES if mark <= minutes), default=0)
        if reached <= self._told:
            return ""
        self._told = reached
        return f"no output for {reached} minutes" if reached > 1 else "no output for a minute"
