"""Which base made from Debian's packages do a project's images stand on, for each of their platforms?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from doit_images.core.base import platforms
from doit_images.core.engine.client import ImageConfig, LocalImage, Snapshot, normalise
from doit_images.core.planner import Unasked
from doit_images.core.run import Run
from doit_images.share import connection
from tasks import ROOT
from tasks.bases import base, debian


class DeclaredBase:
    """``BASE_IMAGE`` as the settings and the files declare it now, to a run: a ``LocalBase``. Methods raise
    ``UserError``."""

    task, renew = "base_image", "doit rebuild_base"

    def __init__(self, run: Run) -> None:
        self._run, self._settings = run, run.settings
        self._seen: Snapshot | None = None
        self._identities: dict[str, str] = {}

    def identity(self, platform: str = "") -> str:
        """The identity of the base for a platform, the engine's without; "" if the project declares none."""
        if self._seen is not self._snapshot:  # whoever makes it again writes the files that say so
            self._seen, self._identities = self._snapshot, {}
        platform = self._own(platform)
        if platform not in self._identities:
            declared = base.declared(self._settings)
            self._identities[platform] = debian.identity(ROOT, platform) if declared else ""
        return self._identities[platform]

    @property
    def date(self) -> str:
        """The day that its packages are of."""
        return debian.date_of(ROOT)

    def stands_for(self, refs: Iterable[str]) -> bool:
        """Whether one of these references is it."""
        return normalise(self._settings.base_image) in map(normalise, refs)

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

    def made_here(self, local_image: LocalImage) -> bool:
        """Whether an image is itself a base made from Debian's packages."""
        return base.made_here(local_image)

    def is_here(self) -> bool:
        """Whether the engine holds what is wanted, for its own platform and the others that images are built for."""
        return all(self.counts(self.local_image(some), some) for some in ("", *self.others))

    @property
    def others(self) -> tuple[str, ...]:
        """The platforms other than the engine's for which images are built on it."""
        run = self._run
        if not any(image.platforms for image in run.project.images.values()):
            return ()
        images = run.planner.made_on_any_base()
        ref = normalise(self._settings.base_image)
        read = {
            platform
            for inputs in images.values()
            for name, some in inputs.read_for.items()
            if normalise(name) == ref
            for platform in some
        }
        return tuple(sorted(platform for platform in read if not platforms.serves(self._snapshot.platform, platform)))

    def to_come(self, asked: Sequence[str]) -> tuple[ImageConfig, ...] | None:
        """What the shared registry knows of a base that is not here yet, for these platforms; None if not of all.
        Raises ``Unasked`` where that has to be asked first."""
        if not self._settings.cache_registry:
            return None
        from tasks.bases import shared

        share = connection.of(self._run).share
        there = [shared.of(self._settings, share, self.identity(platform), self._own(platform)) for platform in asked]
        if unasked := {str(number): each for number, base in enumerate(there) for each in base.unasked.values()}:
            raise Unasked(unasked)
        known = [base.config() for base in there]
        return tuple(config for config in known if config) if all(known) else None

    def bring(self) -> str:
        """See to it that the engine holds it; what was done, "" for nothing."""
        if self.is_here():
            return ""
        return base.ensure(self._settings, ROOT, share=connection.of(self._run).share, others=self.others)

    def give(self) -> bool:
        """Push it, for each platform, if it was made here before there was a registry, and that has none; whether any
        was pushed."""
        from tasks.bases import shared

        pushed = False
        for platform in (self._snapshot.platform, *self.others):
            number, local_image = self.identity(platform), self.local_image(platform)
            if local_image and number and base.is_of(local_image, number):
                share = connection.of(self._run).share
                pushed |= shared.of(self._settings, share, number, platform).push(local_image.id, self._run.engine)
        return pushed

    @property
    def _snapshot(self) -> Snapshot:
        return self._run.local_images.snapshot()

    def _own(self, platform: str) -> str:
        """The platform whose base serves this one, where the engine's own does."""
        engine = self._snapshot.platform
        return engine if not platform or platforms.serves(engine, platform) else platform


def of(run: Run) -> DeclaredBase | None:
    """The base of a run's project; None where that means the image of that name: another project that is built from
    here, unless it is told a ``BASE_IMAGE``."""
    if not debian.declares_base(ROOT):
        return None
    directory = run.project.directory
    ours = "BASE_IMAGE" in run.caller or directory.is_relative_to(ROOT) or debian.declares_base(directory)
    return DeclaredBase(run) if ours else None
