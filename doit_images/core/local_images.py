"""What does the engine hold, as far as this run knows, and what of it stands for an external base?

Asked once and again after ``changed``. A reference in a Dockerfile (`FROM debian:13`) can lead to an image of that
name, to one beside it for another platform, or to the base that the project makes itself (``around.LocalBase``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from doit_images.core.around import LocalBase
from doit_images.core.base import platforms
from doit_images.core.base.references import beside
from doit_images.core.base.settings import Settings
from doit_images.core.engine.client import Engine, ImageConfig, LocalImage, Snapshot
from doit_images.core.inputs.image_configs import ImageConfigCache
from doit_images.core.inputs.image_inputs import ImageInputs


class LocalImages:
    """The images of one engine. Methods may be called from any thread and raise ``UserError``."""

    def __init__(
        self, engine: Engine, settings: Settings, folder: Path, own_base: Callable[[], LocalBase | None]
    ) -> None:
        """``folder`` is where it is kept what images are, by their ids; ``own_base`` gives the base that the project
        makes itself, and is called when a base is looked for."""
        self._engine, self._settings, self._own_base = engine, settings, own_base
        self._snapshot: Snapshot | None = None
        self._configs = ImageConfigCache(folder / "facts.json", engine.config_of)
        self._expected: Mapping[tuple[str, str], ImageConfig] = {}
        self.unmoved = threading.RLock()
        """While this is held, no other thread says that the engine holds other images."""
        self.version = 0
        """How often that was said: what was decided before is decided again."""

    def ask(self) -> None:
        """Send ahead what ``snapshot`` will ask."""
        self._engine.ask()

    def snapshot(self) -> Snapshot:
        """What the engine holds."""
        with self.unmoved:
            if self._snapshot is None:
                self._snapshot = self._engine.snapshot()
            return self._snapshot

    def changed(self) -> None:
        """The engine holds other images than before."""
        with self.unmoved:
            self._snapshot = None
            self.version += 1
            self._engine.forget()
            self._configs.forget()

    def expect(self, bases: Mapping[tuple[str, str], ImageConfig]) -> None:
        """Let external references, each for a platform, count as if the engine held these images of them."""
        with self.unmoved:
            self._expected = bases
            self.version += 1

    def named(self, image_id: str, refs: Sequence[str]) -> None:
        """The engine gave an image these names, and holds what it held: to list hundreds of images takes its time."""
        with self.unmoved:
            after = self._snapshot and self._snapshot.with_names(image_id, refs)
            self.changed()
            self._snapshot = after

    @cached_property
    def containerd_store(self) -> bool:
        """Whether the engine keeps images in containerd's store."""
        return self._engine.uses_containerd_store()

    def config_of(self, local_image: LocalImage) -> ImageConfig:
        """What is known of an image that the engine holds."""
        get = self._configs.get if local_image.fixed else self._configs.get_passing
        return get(local_image.id)

    def keep_configs(self) -> None:
        """Write down, for later runs, what was learnt about the images that are here."""
        self._configs.keep(local_image.id for local_image in self.snapshot().by_name.values())

    def on_own_base(self, refs: Iterable[str]) -> bool:
        """Whether one of these is the base that this project makes itself."""
        own = self._own_base()
        return own is not None and own.stands_for(refs)

    def base(self, ref: str, platform: str) -> tuple[str, LocalImage] | None:
        """The image that the engine holds of an external reference for a platform, by its name there: the reference,
        one beside that, or that of what stands in for it."""
        own = self._own_base()
        declared = own.held(platform) if own and own.stands_for([ref]) else None
        there = ((name, self.snapshot().get(name)) for name in (ref, beside(ref, platform)))
        for name, local_image in (declared, *there) if declared else there:
            if local_image and platforms.serves(self.config_of(local_image).platform, platform):
                return name, local_image
        return None

    def bases(self, ref: str, asked: tuple[str, ...]) -> tuple[LocalImage, ...] | None:
        """The images that the engine holds of an external reference for these platforms, if a build can start from just
        them. The engine's own BuildKit with the classic store takes one image for a name: with two, it asks outside."""
        images = tuple(found[1] for platform in asked if (found := self.base(ref, platform)))
        several = len({each.id for each in images}) > 1
        return None if len(images) < len(asked) or (several and not self._hands_over_several) else images

    @property
    def _hands_over_several(self) -> bool:
        """Whether a build can get images of several platforms for one reference."""
        return self._settings.dedicated_builder or self.containerd_store

    def configs_of(self, ref: str, asked: tuple[str, ...]) -> tuple[ImageConfig, ...] | None:
        """What is known of an external reference for these platforms, as ``InputResolver.resolve`` asks."""
        if any((ref, platform) in self._expected for platform in asked):
            looked = [self._expected.get((ref, platform)) or self._held(ref, platform) for platform in asked]
            configs = tuple(config for config in looked if config)
            able = len(configs) == len(asked) and (len(asked) == 1 or self._hands_over_several)
            return configs if able else None
        images, own = self.bases(ref, asked), self._own_base()
        known = tuple(map(self.config_of, images)) if images else None
        if own is None or not own.stands_for([ref]) or (images and all(map(own.counts, images, asked))):
            return known
        return own.to_come(asked) if len(asked) == 1 or self._hands_over_several else None

    def _held(self, ref: str, platform: str) -> ImageConfig | None:
        found = self.base(ref, platform)
        return self.config_of(found[1]) if found else None

    def stand_ins(self, images: Iterable[ImageInputs]) -> dict[str, str]:
        """The bases of these images for which something stands in that was made here, each with what that is called in
        the engine."""
        own = self._own_base()
        if own is None:
            return {}
        read_for = {(ref, one) for inputs in images for ref, some in inputs.read_for.items() for one in some}
        found = {ref: self.base(ref, one) for ref, one in sorted(read_for) if own.stands_for([ref])}
        return {ref: named[0] for ref, named in found.items() if named and own.made_here(named[1])}
