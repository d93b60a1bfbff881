"""When did something go wrong so often that it is not tried any more?"""

from __future__ import annotations

import threading


class Strikes:
    """How often one kind of thing went wrong in a row, of which ``most`` are too many; for several threads."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._lock = threading.Lock()
        self.any_good = False
        self.out = False
        """Whether it is not tried any more."""

    def good(self) -> None:
        """It went well."""
        with self._lock:
            self._count, self.any_good = 0, True

    def bad(self, at_once: bool = False) -> bool:
        """It went wrong; whether that is now too much, ``at_once`` or after so many times. Said of only one of them."""
        with self._lock:
            self._count += 1
            ends = not self.out and (at_once or self._count >= self._most)
            self.out = self.out or ends
            return ends
