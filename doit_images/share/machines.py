"""How does a run know the other machines that build the same project? It is the core's ``Peers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from doit_images.share import connection

if TYPE_CHECKING:
    from doit_images.core.around import PastEngine
    from doit_images.core.engine.client import LocalImage
    from doit_images.core.planning.plan import Decision
    from doit_images.core.planning.shared_image import SharedImage
    from doit_images.core.run import Run
    from doit_images.share.lease import BuildCoordinator
    from doit_images.share.share import Share


class Machines:
    """The machines that share through a run's registry and its Redis."""

    def __init__(self, run: Run) -> None:
        self._run, self._through = run, connection.of(run)

    @property
    def results(self) -> Share:
        """The shared registry."""
        return self._through.share

    @property
    def leases(self) -> BuildCoordinator:
        """Those that Redis keeps."""
        return self._through.coordinator

    @cached_property
    def past_engine(self) -> PastEngine:
        """How a builder pushes its results itself."""
        from doit_images.share.registry_output import Pushing

        return Pushing(self._run)

    def rebuilt(self, decision: Decision) -> int:
        """When another machine rebuilt this on purpose last, in seconds since the epoch; 0 if that is not known."""
        from doit_images.core.planning.plan import rebuilt
        from doit_images.core.planning.wanted import wanted_of

        wanted = wanted_of(decision.inputs, self._run.snapshot().platform)
        there = self.results.look({"": wanted}).get("") if wanted and self.results.reads else None
        return rebuilt(there.labels) if there else 0

    def give(self, decision: Decision, made: LocalImage, seconds: float) -> SharedImage | None:
        """Share what was built; the result of another machine that is to take its place, if any."""
        from doit_images.share import publish

        return publish.give(self._run, decision, made, seconds)

    def seconds(self, fingerprints: Sequence[str]) -> Mapping[str, float]:
        """How long the builds of these fingerprints took elsewhere, where that is known."""
        return {name: made.seconds for name, made in self._through.coordinator.index.lookup(fingerprints).items()}
