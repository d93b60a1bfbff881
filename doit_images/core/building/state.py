"""How far is the work on an image?"""

from __future__ import annotations

from enum import StrEnum


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
