"""How does a run know the other machines that build the same project? It is the core's ``Peers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING

from doit_images.share import connection

if TYPE_CHECKING:
    from pathlib import Path

    from doit_images.core.around import PastEngine
    from doit_images.core.engine.client import LocalImage
    from doit_images.core.planning.plan import Decision
    from doit_images.core.planning.shared_image import SharedImage
    from doit_images.core.planning.wanted import Wanted
    from doit_images.core.run import Run


class Machines:
    """The machines that share through a run's registry and its Redis."""

    def __init__(self, run: Run) -> None:
        self._run, self._through = run, connection.of(run)

    @property
    def reads(self) -> bool:
        """Whether results of other machines are looked for."""
        return self._through.share.reads

    @property
    def writes(self) -> bool:
        """Whether results of this machine are given to others."""
        return self._through.share.writes

    @property
    def takes_turns(self) -> bool:
        """Whether machines settle who builds what, and have answered so far."""
        return bool(self._run.settings.redis_url) and self._through.coordinator.on

    @cached_property
    def past_engine(self) -> PastEngine:
        """How a builder pushes its results itself."""
        from doit_images.share.past_engine import Pushing

        return Pushing(self._run)

    def look(self, wanted: Mapping[str, Wanted]) -> dict[str, SharedImage]:
        """The results that there are of these images; asked about once in a run."""
        return self._through.share.look(wanted)

    def unasked(self, wanted: Mapping[str, Wanted]) -> dict[str, Wanted]:
        """Those images that ``look`` would have to ask about."""
        return self._through.share.unasked(wanted)

    def remembered(self, wanted: Mapping[str, Wanted]) -> dict[str, SharedImage]:
        """What earlier runs were told of these images lately, if that is known of all of them."""
        return self._through.share.remembered(wanted)

    def forget(self, wanted: Wanted) -> None:
        """Ask again about an image."""
        self._through.share.forget(wanted)

    def pull(self, wanted: Wanted, offer: SharedImage, layout: Path | None) -> str:
        """Let the engine fetch a result; a reference to it there, "" if that failed."""
        return self._through.share.pull(wanted, offer, self._run.engine, layout)

    def refuse(self, wanted: Wanted, why: str) -> None:
        """What was pulled is not what was promised."""
        self._through.share.refuse(wanted, why)

    def rebuilt(self, decision: Decision) -> int:
        """When another machine rebuilt this on purpose last, in seconds since the epoch; 0 if that is not known."""
        from doit_images.share import give

        return give.rebuilt_elsewhere(self._run, decision)

    def give(self, decision: Decision, made: LocalImage, seconds: float) -> SharedImage | None:
        """Share what was built; the result of another machine that is to take its place, if any."""
        from doit_images.share import give

        return give.give(self._run, decision, made, seconds)

    def seconds(self, fingerprints: Sequence[str]) -> Mapping[str, float]:
        """How long the builds of these fingerprints took elsewhere, where that is known."""
        return {name: made.seconds for name, made in self._through.coordinator.index.lookup(fingerprints).items()}

    def holds(self, turn: str) -> bool:
        """Whether this process holds the lease with this name."""
        return self._through.coordinator.holds(turn)

    def lease(
        self, turn: str, waits: Callable[[str], None], stopping: Callable[[], bool], expected: float | None
    ) -> AbstractContextManager[bool]:
        """The lease with this name for a block; see ``BuildCoordinator.acquire``."""
        return self._through.coordinator.acquire(turn, waits, stopping, expected)
