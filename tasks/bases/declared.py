"""Which base made from Debian's packages do a project's images stand on, for each of their platforms?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from doit_images.core.base import platforms
from doit_images.core.base.settings import ROOT, Settings
from doit_images.core.engine.client import ImageConfig, LocalImage, Snapshot, normalise
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.unasked import Unasked
from tasks.bases import base, debian

if TYPE_CHECKING:
    from doit_images.share.share import Share


class DeclaredBase:
    """``BASE_IMAGE`` as the settings and the files declare it now, to an engine that holds ``snapshot``; ``share`` is
    asked for where a shared registry is set. Raises ``UserError``, and ``Unasked`` where that has to be asked first."""

    def __init__(self, settings: Settings, snapshot: Snapshot, share: Callable[[], Share]) -> None:
        self._settings, self._snapshot, self._share = settings, snapshot, share
        self._identities: dict[str, str] = {}

    def identity(self, platform: str = "") -> str:
        """The identity of the base for a platform, the engine's without; "" if the project declares none."""
        platform = self._own(platform)
        if platform not in self._identities:
            declared = base.declared(self._settings)
            self._identities[platform] = debian.identity(ROOT, platform) if declared else ""
        return self._identities[platform]

    def held(self, platform: str = "") -> tuple[str, LocalImage] | None:
        """What the engine holds of it for a platform, the engine's without, by its name there; ``counts`` says if it is
        what is wanted."""
        return base.held(self._settings, self._snapshot, platform or self._snapshot.platform, self.identity(platform))

    def local_image(self, platform: str = "") -> LocalImage | None:
        """The same without its name."""
        found = self.held(platform)
        return found[1] if found else None

    def counts(self, local_image: LocalImage | None, platform: str = "") -> bool:
        """Whether an image of the engine is the base that is wanted for a platform, the engine's without."""
        return base.wanted(local_image, self._settings, self.identity(platform))

    def is_here(self, others: Iterable[str]) -> bool:
        """Whether the engine holds what is wanted, for its own platform and these others."""
        return all(self.counts(self.local_image(some), some) for some in ("", *others))

    def others(self, images: Iterable[ImageInputs]) -> tuple[str, ...]:
        """The platforms other than the engine's for which these images are built on it."""
        read = {platform for inputs in images for platform in self._read_for(inputs)}
        return tuple(sorted(platform for platform in read if not platforms.serves(self._snapshot.platform, platform)))

    def to_come(self, wanted: Sequence[str]) -> tuple[ImageConfig, ...] | None:
        """What the shared registry knows of a base that is not here yet, for these platforms; None if not of all."""
        if not self._settings.cache_registry:
            return None
        from tasks.bases import shared

        there = [
            shared.of(self._settings, self._share(), self.identity(platform), self._own(platform))
            for platform in wanted
        ]
        if unasked := {str(number): each for number, base in enumerate(there) for each in base.unasked.values()}:
            raise Unasked(unasked)
        known = [base.config() for base in there]
        return tuple(config for config in known if config) if all(known) else None

    def _own(self, platform: str) -> str:
        """The platform whose base serves this one, where the engine's own does."""
        engine = self._snapshot.platform
        return engine if not platform or platforms.serves(engine, platform) else platform

    def _read_for(self, inputs: ImageInputs) -> Iterable[str]:
        ref = normalise(self._settings.base_image)
        return (platform for name, some in inputs.read_for.items() if normalise(name) == ref for platform in some)
