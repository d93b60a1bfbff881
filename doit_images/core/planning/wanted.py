"""Under which name is a result looked for in the shared registry?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from doit_images.core.base.references import path_of, tag_of
from doit_images.core.inputs.image_inputs import ImageInputs


@dataclass(frozen=True)
class Wanted:
    """An image to look for: its reference in the project, its fingerprint, and its platform."""

    ref: str
    fingerprint: str
    platform: str

    @property
    def path(self) -> str:
        """Its repository without a registry."""
        return path_of(self.ref)

    @property
    def tag(self) -> str:
        """The tag that names its fingerprint."""
        return tag_of(self.ref, self.fingerprint).rpartition(":")[2]

    @property
    def key(self) -> tuple[str, str]:
        """What it is told from others by in one registry."""
        return self.path, self.tag

    @property
    def turn(self) -> str:
        """What a lease on building it is called."""
        return f"{self.fingerprint}:{self.platform}"


def wanted_of(inputs: ImageInputs, platform: str) -> Wanted | None:
    """What to look for in the registry; None for an image that cannot be shared: one whose base is not known (its
    fingerprint then says nothing of it)."""
    if not all(inputs.bases.values()) or not inputs.fingerprint:
        return None
    return Wanted(inputs.image.ref, inputs.fingerprint, ", ".join(inputs.platforms) or platform)


def all_wanted(inputs: Mapping[str, ImageInputs], platform: str) -> dict[str, Wanted]:
    """What to look for of all these images that can be shared."""
    return {name: wanted for name, image in inputs.items() if (wanted := wanted_of(image, platform))}
