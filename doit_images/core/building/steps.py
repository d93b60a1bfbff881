"""What comes next in the work on one image? Pure: every state that it can be in, and every wait, on one page.

    DECIDE ──> KEEP                                  it is fresh
      ^   ──> TAG                                    the engine holds it: it gets its names
      │   ──> PULL                                   the shared registry has it
      │   ──> WAIT_FOR_RUN ──> WAIT_FOR_MACHINE ──> WAIT_FOR_CAPACITY ──> BUILD
      └────────── what somebody else did meanwhile, or that did not come ────┘

An image that waits for another machine takes no capacity of this one. One that waits for capacity keeps no other
machine waiting: with a lease, capacity is only taken if some is left; if none is, capacity comes first, and then the
lease if it is free.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from doit_images.core.building.attempt import Attempt
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import SharedRef


class Step(Enum):
    """What is done next about an image."""

    DECIDE = auto()
    """Decide what is to be done, by what its folders and the engine hold now."""
    KEEP = auto()
    TAG = auto()
    PULL = auto()
    WAIT_FOR_RUN = auto()
    """Take the build lock: no other run of this machine builds it then."""
    WAIT_FOR_MACHINE = auto()
    """Take the lease: no other machine builds it then. A machine that may not push only waits until none does."""
    LEASE_IF_FREE = auto()
    WAIT_FOR_CAPACITY = auto()
    """Have the processors and the memory that its build needs."""
    CAPACITY_IF_FREE = auto()
    BUILD = auto()
    REFUSE = auto()
    """It cannot be built."""
    END = auto()


class Right(Enum):
    """What a build needs to have before it begins, in the order in which it is taken."""

    BUILD_LOCK = auto()
    LEASE = auto()
    CAPACITY = auto()


@dataclass(frozen=True)
class Work:
    """How far the work on an image is. ``decision`` holds until the image's folders, the engine or the shared registry
    may hold something else than when it was taken: after any wait in which somebody else may have built the image, and
    after an attempt that came to nothing. ``rebuild``: build it without cache, whoever else does. ``leased`` is what
    other machines know the build by, if there are any to ask. ``crowded``: no capacity was left with the lease."""

    decision: Decision | None = None
    attempt: Attempt = field(default_factory=Attempt)
    rebuild: bool = False
    leased: SharedRef | None = None
    crowded: bool = False
    held: frozenset[Right] = frozenset()
    ended: bool = False

    def having(self, *rights: Right) -> Work:
        """The same with these rights, too."""
        return replace(self, held=self.held.union(rights))

    def without(self, *rights: Right) -> Work:
        """The same without these rights."""
        return replace(self, held=self.held.difference(rights))

    def undecided(self) -> Work:
        """The same, to be decided again."""
        return replace(self, decision=None)


def next_step(work: Work) -> Step:
    """What is done next."""
    if work.ended:
        return Step.END
    if work.decision is None:
        return Step.DECIDE
    match work.decision.action:
        case Action.FRESH:
            return Step.KEEP
        case Action.RETAG:
            return Step.TAG
        case Action.PULL:
            return Step.PULL
        case Action.BUILD:
            return _before_build(work, work.held)
        case _:
            return Step.REFUSE


def _before_build(work: Work, held: Collection[Right]) -> Step:
    if Right.BUILD_LOCK not in held and not work.rebuild:
        return Step.WAIT_FOR_RUN
    if work.leased is None or work.rebuild:
        return Step.BUILD if Right.CAPACITY in held else Step.WAIT_FOR_CAPACITY
    if Right.LEASE in held:
        return Step.BUILD if Right.CAPACITY in held else Step.CAPACITY_IF_FREE
    if Right.CAPACITY in held:
        return Step.LEASE_IF_FREE
    return Step.WAIT_FOR_CAPACITY if work.crowded else Step.WAIT_FOR_MACHINE
