"""Which registry and which Redis does a run share through, as its settings name them?

Nothing is imported, and nobody asked, before a run has something to ask.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doit_images.core.run import Run
    from doit_images.share.lease import BuildCoordinator
    from doit_images.share.share import Share


class Connection:
    """The registry that machines share finished images through, and the Redis through which they settle who builds
    what."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def share(self) -> Share:
        """The shared registry. ``UserError`` for a list of trusted builders that is not one."""
        from doit_images.share import remembered, share

        run = self._run
        index = self.coordinator.index if run.settings.redis_url else None
        # A run that is to ask about all believes nothing that was said before.
        seconds = 0 if run.asked.due else run.settings.cache_ask
        memory = remembered.Remembered(run.folder / "answers.json", seconds)
        return share.of(run.settings, run.events.say, index, memory)

    @cached_property
    def coordinator(self) -> BuildCoordinator:
        """Who settles who builds what."""
        from doit_images.share.lease import BuildCoordinator

        return BuildCoordinator(self._run.settings.redis_url, self._run.events.say)


def of(run: Run) -> Connection:
    """The one of a run."""
    return run.part(Connection)
