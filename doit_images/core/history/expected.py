"""How long does what is planned take, as far as history knows?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

from doit_images.core.base.errors import UserError
from doit_images.core.compose.image import Image
from doit_images.core.history.store import History
from doit_images.core.planning.plan import Action, Decision


class Expected:
    """The seconds that each of these images takes, by its name, where that is known."""

    def __init__(self, history: History, images: Collection[Image]) -> None:
        self._history, self._images = history, images

    @cached_property
    def builds(self) -> dict[str, float]:
        """How long each image takes to be built."""
        return self._known(Action.BUILD)

    @cached_property
    def pulls(self) -> dict[str, float]:
        """How long each image takes to be pulled."""
        return self._known(Action.PULL)

    def planned(self, decisions: Mapping[str, Decision]) -> dict[str, float]:
        """How long what is planned for each image takes, where that is known: a pull is not a build, and the same image
        under another service's name takes nothing more."""
        seconds = {}
        for name, decision in decisions.items():
            known = self.pulls if decision.action == Action.PULL else self.builds
            if decision.inputs.image.duplicate_of or name in known:
                seconds[name] = 0.0 if decision.inputs.image.duplicate_of else known[name]
        return seconds

    def learn(self, decisions: Mapping[str, Decision], lookup: Callable[[Sequence[str]], Mapping[str, float]]) -> None:
        """Take over from other machines (``lookup``, by fingerprint) how long builds take that were never done here."""
        unknown = {
            decision.inputs.fingerprint: name
            for name, decision in decisions.items()
            if decision.builds and name not in self.builds
        }
        if unknown:
            self.builds.update({unknown[number]: seconds for number, seconds in lookup(list(unknown)).items()})

    def _known(self, action: Action) -> dict[str, float]:
        try:
            known = self._history.expected_seconds((image.ref for image in self._images), action)
        except UserError:  # a damaged history forecasts nothing, and a plan needs no forecast
            known = {}
        return {image.name: known[image.ref] for image in self._images if image.ref in known}
