"""What can be done about an image?"""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What is to be done about an image."""

    FRESH = "fresh"
    """Nothing: the engine has it under its fingerprint, and all its names point at it; or the shared registry has it,
    where that alone keeps images."""
    RETAG = "retag"
    """Only names are missing: the engine has this very content (another branch was here, or only a parent's
    fingerprint moved while its content did not)."""
    PULL = "pull"
    """The shared registry has it."""
    BUILD = "build"
    """None of these."""
    BROKEN = "broken"
    """It cannot be built as declared, or something that it needs cannot."""
