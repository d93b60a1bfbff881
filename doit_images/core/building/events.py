"""What happens to images, as events (``base.events``), and how far is the work on each?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doit_images.core.buildkit.progress import Progress, ProgressEvent
    from doit_images.core.planning.plan import Action


class ImageState(StrEnum):
    """What a run has done about an image so far, or how its work on it ended."""

    UNKNOWN = "unknown"
    """Doit has not asked about it yet."""
    RUNNING = "running"
    BUILT = "built"
    RETAGGED = "retagged"
    PULLED = "pulled"
    FRESH = "fresh"
    LEFT = "not needed"
    """Others are built on it, and none of these has to be built."""
    FAILED = "failed"
    INPUTS_CHANGED = "moved"
    """It was built, but its inputs changed meanwhile."""
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    """A parent of it failed."""


@dataclass(frozen=True)
class ImagesPlanned:
    """The first build of a run begins: what will be done to each image, and the seconds that this takes, if known."""

    actions: Mapping[str, tuple[Action, float | None]]


@dataclass(frozen=True)
class ImageStarted:
    """Work on an image begins: ``build``, ``pull`` or ``retag``, why, and the seconds that it takes, if known."""

    image: str
    action: Action
    reasons: Sequence[str] = ()
    expected: float | None = None


@dataclass(frozen=True)
class ImageNoted:
    """What an image waits for, or what is done for it besides BuildKit's steps."""

    image: str
    text: str


@dataclass(frozen=True)
class StepsChanged:
    """BuildKit said something of an image: the state of all its steps, and what is new in it."""

    image: str
    progress: Progress
    changes: Sequence[ProgressEvent]


@dataclass(frozen=True)
class ImageEnded:
    """Work on an image is over: how, what BuildKit did, and the bytes of the image."""

    image: str
    state: ImageState
    progress: Progress | None = None
    size: int | None = None
