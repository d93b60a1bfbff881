"""Which builds may go on at the same moment, where a project says what they need (``x-build-needs``)?

``-n`` limits how many builds run at once. This module also limits them to the processors and memory of the engine's
machine, so that a large ``-n`` does not make it swap or run out of memory. The most urgent build comes first: the one
with the longest path of builds after it. No other build overtakes it, or the longest path would end last. A build that
needs more than the machine has runs alone. A build takes capacity last, after the build lock, and then waits for
nothing else. A build that waits for capacity holds no lease, or other machines would wait for a machine that does
nothing. Runs of other checkouts are not counted.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from doit_images.core.base.formatting import size_text
from doit_images.core.compose.needs import NOTHING, Needs
from doit_images.core.engine.client import Engine


class Full(Exception):
    """No capacity is left now, and the caller does not want to wait for it."""


class Capacity:
    """Processors and bytes of memory. Builds take what they need and give it back. For any thread."""

    def __init__(self, cpus: float, memory: int) -> None:
        self.cpus, self.memory = cpus, memory
        self._inside: list[Needs] = []
        self._waiting: list[tuple[float, int]] = []
        self._count = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, urgency: float, needs: Needs, waits: Callable[[], None]) -> Iterator[None]:
        """Have what is needed for the block, the highest ``urgency`` first; ``waits`` is called before it waits, and
        keeps it from that by what it raises."""
        if needs == NOTHING:
            yield
            return
        self._enter(urgency, needs, waits)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(needs)
                self._changed.notify_all()

    def _enter(self, urgency: float, needs: Needs, waits: Callable[[], None]) -> None:
        with self._changed:
            self._count += 1
            place = (-urgency, self._count)
            self._waiting.append(place)
            try:
                if not self._may(place, needs):
                    waits()
                    self._changed.wait_for(lambda: self._may(place, needs))
                self._inside.append(needs)
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()  # the next may fit beside it

    def _may(self, place: tuple[float, int], needs: Needs) -> bool:
        if place != min(self._waiting):
            return False
        cpus = sum(each.cpus for each in self._inside) + needs.cpus
        memory = sum(each.memory for each in self._inside) + needs.memory
        return not self._inside or (cpus <= self.cpus and memory <= self.memory)


class BuildCapacity:
    """The capacity of the engine's machine, for the builds of one run. ``needs`` is what each image needs; when the
    first build needs any, ``measure`` says what there is, and ``urgency`` how long the path of builds from each image
    on is."""

    def __init__(
        self, needs: Mapping[str, Needs], measure: Callable[[], Capacity], urgency: Callable[[], Mapping[str, float]]
    ) -> None:
        self._needs, self._measure, self._urgency = needs, measure, urgency
        self._lock = threading.Lock()
        self._known: tuple[Capacity, Mapping[str, float]] | None = None

    @contextlib.contextmanager
    def taken(self, name: str, note: Callable[[str], None], *, wait: bool = True) -> Iterator[None]:
        """Hold the capacity that the build of an image needs, for the block; ``note`` hears what it waits for. An image
        without declared needs gets it at once. Raises ``Full`` if no capacity is left and ``wait`` is false."""
        needs = self._needs.get(name, NOTHING)
        if needs == NOTHING:
            yield
            return
        with self._lock:
            whole, urgency = self._known = self._known or (self._measure(), self._urgency())

        def waits() -> None:
            if not wait:
                raise Full
            wanted = [f"{needs.cpus:g} of {whole.cpus:g} processors"] if needs.cpus else []
            wanted += [f"{size_text(needs.memory)} of {size_text(whole.memory)} of memory"] if needs.memory else []
            note(f"waits for {' and '.join(wanted)}, which other builds have")

        with whole.taken(urgency[name], needs, waits):
            yield


def of_engine(engine: Engine, memory: int) -> Capacity:
    """What the engine's machine has; of memory so many bytes, if they are limited (not 0)."""
    info = engine.info()
    return Capacity(float(info.get("NCPU") or 1), memory or int(info.get("MemTotal") or 0))
