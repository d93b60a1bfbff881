"""Through which registry and which Redis does a run share with the other machines that build its project?

As its settings name them. Nothing is imported, and nobody asked, before a run has something to ask.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from doit_images.core.around import PastEngine
    from doit_images.core.engine.client import LocalImage
    from doit_images.core.planning.plan import Decision
    from doit_images.core.planning.shared_image import SharedImage
    from doit_images.core.run import Run
    from doit_images.share.lease import BuildCoordinator
    from doit_images.share.share import Share


class Machines:
    """The machines that build a run's project: the core's ``Peers``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.giving = threading.RLock()
        """Held where what others lack is pushed: children of one parent, and images on one base, do it once."""
        self.base_given = False

    @cached_property
    def share(self) -> Share:
        """The registry that they share finished images through. ``UserError`` for a list of trusted builders that is
        not one."""
        from doit_images.share import index, share

        run = self.run
        others = self.coordinator.index if run.settings.redis_url else None
        # A run that is to ask about all believes nothing that was said before.
        seconds = 0 if run.asked.due else run.settings.cache_ask
        memory = index.Remembered(run.folder / "answers.json", seconds)
        return share.of(run.settings, run.events.say, others, memory)

    @cached_property
    def coordinator(self) -> BuildCoordinator:
        """The Redis through which they settle who builds what."""
        from doit_images.share.lease import BuildCoordinator

        return BuildCoordinator(self.run.settings.redis_url, self.run.events.say)

    @property
    def results(self) -> Share:
        """What the core calls what they share."""
        return self.share

    @property
    def leases(self) -> BuildCoordinator:
        """What the core calls how they settle that."""
        return self.coordinator

    @cached_property
    def past_engine(self) -> PastEngine:
        """How a builder pushes its results itself."""
        from doit_images.share.registry_output import Pushing

        return Pushing(self)

    def rebuilt(self, decision: Decision) -> int:
        """When another machine rebuilt this on purpose last, in seconds since the epoch; 0 if that is not known."""
        from doit_images.core.planning.plan import rebuilt
        from doit_images.core.planning.shared_image import shared_ref_of

        shared_ref = shared_ref_of(decision.inputs, self.run.local_images.snapshot().platform)
        there = self.share.look({"": shared_ref}).get("") if shared_ref and self.share.reads else None
        return rebuilt(there.labels) if there else 0

    def give(self, decision: Decision, made: LocalImage, seconds: float) -> SharedImage | None:
        """Share what was built; the result of another machine that is to take its place, if any."""
        from doit_images.share import publish

        return publish.give(self, decision, made, seconds)

    def seconds(self, fingerprints: Sequence[str]) -> Mapping[str, float]:
        """How long the builds of these fingerprints took elsewhere, where that is known."""
        return {name: made.seconds for name, made in self.coordinator.index.lookup(fingerprints).items()}


def of(run: Run) -> Machines:
    """Those of a run."""
    return cast("Machines", run.peers)  # as `cli.process` composes it
