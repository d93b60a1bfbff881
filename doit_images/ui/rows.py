"""What does a row of the board hold?"""

from __future__ import annotations

from dataclasses import dataclass, field

from doit_images.core.building.events import ImageState
from doit_images.core.planning.plan import Action

VERBS = {Action.BUILD: "building", Action.PULL: "pulling", Action.RETAG: "tagging"}
"""How an action is called while it runs."""

GOOD = (ImageState.BUILT, ImageState.RETAGGED, ImageState.PULLED, ImageState.FRESH, ImageState.LEFT)
"""How an image can end well."""

IDLE = (ImageState.FRESH, ImageState.LEFT)
"""Nothing was done about it."""
BAD = (ImageState.FAILED, ImageState.INPUTS_CHANGED, ImageState.CANCELLED, ImageState.BLOCKED)
"""How it can end badly."""


@dataclass
class Row:
    """One image on the board. Times are of the monotonic clock; ``done`` and ``total`` count its instruction steps."""

    image: str
    parents: tuple[str, ...] = ()
    action: Action | None = None
    expected: float | None = None
    state: ImageState = ImageState.UNKNOWN
    doing: str = ""
    done: int = 0
    total: int = 0
    began: float = 0.0
    ended: float = 0.0
    cause: str = ""
    reported: bool = False
    looked: float = field(default=0.0, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in (ImageState.UNKNOWN, ImageState.RUNNING)

    def elapsed(self, now: float) -> float:
        """Seconds since it began, until it ended."""
        return (self.ended or now) - self.began if self.began else 0.0
