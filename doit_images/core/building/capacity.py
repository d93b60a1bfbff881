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
from collections.abc import Callable, Iterator

from doit_images.core.base.formatting import size_text
from doit_images.core.building.events import ImageNoted
from doit_images.core.compose.needs import NOTHING, Needs
from doit_images.core.planning import forecast
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run


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


class _Machine:
    """The capacity of the engine's machine, and how urgent each image is."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.capacity: Capacity | None = None
        self.urgency: dict[str, float] = {}


@contextlib.contextmanager
def taken(run: Run, decision: Decision, *, wait: bool = True) -> Iterator[None]:
    """Hold the capacity that the build of an image needs, for the block. An image without declared needs gets it at
    once. Raises ``Full`` if no capacity is left and ``wait`` is false."""
    needs = run.project.needs.get(decision.name, NOTHING)
    if needs == NOTHING:
        yield
        return
    machine = run.kept(_Machine)
    with machine.lock:
        whole = machine.capacity = machine.capacity or _of_engine(run)
        machine.urgency = machine.urgency or forecast.urgency(run.planner.declared(), run.expected.builds)

    def waits() -> None:
        if not wait:
            raise Full
        wanted = [f"{needs.cpus:g} of {whole.cpus:g} processors"] if needs.cpus else []
        wanted += [f"{size_text(needs.memory)} of {size_text(whole.memory)} of memory"] if needs.memory else []
        run.events.emit(ImageNoted(decision.name, f"waits for {' and '.join(wanted)}, which other builds have"))

    with whole.taken(machine.urgency[decision.name], needs, waits):
        yield


def _of_engine(run: Run) -> Capacity:
    info = run.engine.info()
    return Capacity(float(info.get("NCPU") or 1), run.settings.build_memory or int(info.get("MemTotal") or 0))
