"""What is known of an image that the shared registry holds?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
