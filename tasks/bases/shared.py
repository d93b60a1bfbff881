"""How do machines share a base that one of them made from Debian's packages?

As any image: the shared registry holds it under its identity (``debian.identity``) instead of a fingerprint, and the
first one counts. A machine that has none yet knows from it what its images will be made on, before it is there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from doit_images.core.base import platforms
from doit_images.core.base.settings import Settings
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine, ImageConfig, LocalImage
from tasks.bases.debian import ENV, IDENTITY_LABEL

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage, SharedRef
    from doit_images.share.share import Share

REF = "vllm-swarm/base"
"""Its repository in the shared registry, whatever the project calls it."""


@dataclass(frozen=True)
class SharedBase:
    """The base of an identity and a platform in the shared registry; ``share`` None is nowhere."""

    share: Share | None
    number: str
    platform: str

    @property
    def unasked(self) -> dict[str, SharedRef]:
        """Itself, where ``config`` would have to ask about it, which takes its time."""
        return self.share.unasked({REF: self._shared_ref}) if self.share and not self._remembered() else {}

    def config(self) -> ImageConfig | None:
        """What is known of it before it is here; None if the registry has none."""
        shared_image = self._remembered() or self._offer()
        return ImageConfig(shared_image.content, shared_image.platform, dict(ENV)) if shared_image else None

    def bring(self, ref: str, engine: Engine) -> bool:
        """Pull it and give it the name ``ref``; whether it came."""
        shared_image = self._offer()
        if self.share is None or shared_image is None or not self.share.gives(shared_image):
            return False
        print(f"base_image: pulling {ref} from {self.share.address}", file=sys.stderr)
        pulled = self.share.pull(self._shared_ref, shared_image, engine)
        local_image = engine.snapshot().get(pulled) if pulled else None
        if local_image is None:
            return False
        right = (
            local_image.labels.get(IDENTITY_LABEL) == self.number
            and engine.config_of(local_image.id).content == shared_image.content
        )
        if right:
            engine.tag(local_image.id, ref)
        else:
            self.share.refuse(self._shared_ref, "it is not what the registry says")
        temporary_tag.take_away(engine, [pulled])
        return right

    def give(self, ref: str, image_id: str, engine: Engine) -> str:
        """Push what the engine holds as ``ref``, unless another machine was first: then that is pulled. Returns what
        was done, to be added to a sentence."""
        if self.share is None or not self.share.reads:
            return ""
        pushed = self.push(image_id, engine)
        shared_image = self._offer()
        if shared_image and shared_image.content != engine.config_of(image_id).content and self.bring(ref, engine):
            return f"; {self.share.address} has another machine's, which is taken"
        return f", and pushed it to {self.share.address}" if pushed else ""

    def push(self, image_id: str, engine: Engine) -> bool:
        """Push an image of the engine if the registry has no base of this identity; whether it did."""
        if self.share is None:
            return False
        self.share.forget(self._shared_ref)
        if self._offer() or not self.share.writes:
            return False
        print(f"base_image: pushing to {self.share.address}", file=sys.stderr)
        listed = (local_image for local_image in engine.snapshot().every() if local_image.id == image_id)
        return self.share.push(self._shared_ref, next(listed, LocalImage(image_id)), engine) is not None

    @property
    def _shared_ref(self) -> SharedRef:
        from doit_images.core.planning.shared_image import SharedRef

        return SharedRef(REF, self.number, self.platform)

    def _offer(self) -> SharedImage | None:
        if self.share is None:
            return None
        return self._right(self.share.look({"": self._shared_ref}).get(""))

    def _remembered(self) -> SharedImage | None:
        return self._right(self.share.remembered({"": self._shared_ref}).get("")) if self.share else None

    def _right(self, shared_image: SharedImage | None) -> SharedImage | None:
        right = shared_image and shared_image.labels.get(IDENTITY_LABEL) == self.number
        return shared_image if shared_image and right and platforms.same(shared_image.platform, self.platform) else None


def of(settings: Settings, share: Share | None, number: str, platform: str) -> SharedBase:
    """Where the base with the identity ``number`` is shared; nowhere without a registry, or with "" for none."""
    if not (number and settings.cache_registry):
        return SharedBase(None, number, platform)
    if share is None:
        from doit_images.share import share as sharing

        share = sharing.of(settings, lambda text: print(text, file=sys.stderr))
    return SharedBase(share, number, platform)
