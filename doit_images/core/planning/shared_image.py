"""Which reference does a result have in the shared registry, and what is known of one that is there?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from doit_images.core.base.references import path_of, tag_of

if TYPE_CHECKING:
    from doit_images.core.inputs.image_inputs import ImageInputs


@dataclass(frozen=True)
class SharedImage:
    """An image that a registry holds: its manifest's digest, its configuration's digest (the image id of the classic
    store), platform, labels and content (as ``engine.ImageConfig``), its layers with their compressed bytes, and the
    signatures by which it counts, by builder (``sharing.trusted``)."""

    digest: str
    config: str
    platform: str
    labels: Mapping[str, str]
    content: str
    layers: Mapping[str, int] = field(default_factory=dict)
    signatures: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that a machine without any of it must fetch."""
        return sum(self.layers.values())


@dataclass(frozen=True)
class SharedRef:
    """An image to look for: its reference in the project, its fingerprint, and its platform."""

    ref: str
    fingerprint: str
    platform: str

    def __str__(self) -> str:
        return f"{self.path}:{self.tag}"

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


def shared_ref_of(inputs: ImageInputs, platform: str) -> SharedRef | None:
    """What to look for in the registry; None for an image that cannot be shared: one whose base is not known (its
    fingerprint then says nothing of it)."""
    if not all(inputs.bases.values()) or not inputs.fingerprint:
        return None
    return SharedRef(inputs.image.ref, inputs.fingerprint, ", ".join(inputs.platforms) or platform)


def shared_refs_of(inputs: Mapping[str, ImageInputs], platform: str) -> dict[str, SharedRef]:
    """What to look for of all these images that can be shared."""
    return {name: shared_ref for name, image in inputs.items() if (shared_ref := shared_ref_of(image, platform))}
