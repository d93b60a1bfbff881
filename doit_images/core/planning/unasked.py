"""How is something decided under a lock, when an answer to it may take its time?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from doit_images.core.planning.wanted import Wanted

Decided = TypeVar("Decided")


class Unasked(Exception):
    """Shared results that have to be asked about before anything can be decided."""

    def __init__(self, wanted: Mapping[str, Wanted]) -> None:
        super().__init__()
        self.wanted = wanted


def settled(
    lock: AbstractContextManager[object], decide: Callable[[], Decided], ask: Callable[[Mapping[str, Wanted]], object]
) -> Decided:
    """What ``decide`` comes to, called with the lock. Where it raises ``Unasked``, ``ask`` is called without the lock,
    as who holds that keeps all other threads from their work, and then it is called again."""
    while True:
        try:
            with lock:
                return decide()
        except Unasked as unasked:
            wanted = unasked.wanted
        ask(wanted)
