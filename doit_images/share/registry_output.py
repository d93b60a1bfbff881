"""How does an image get from a dedicated builder into the shared registry, past the engine?

With ``BUILD_OUTPUT=registry`` the registry is what keeps the images of a project: what it holds under their
fingerprints is fresh, and the engine is asked for bases alone.

    docker buildx build ── the builder pushes, by digest ── fingerprint again, the same? ──> the tag of that digest
                                                                      └── no: nobody ever finds it

What was pushed is read back from the registry before it gets a name: its labels, its platform, its content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import path_of
from doit_images.core.building.attempt import InputsChanged
from doit_images.core.building.events import ImageNoted
from doit_images.core.buildkit.buildx import one_line
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import LocalImage
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Decision, offered
from doit_images.core.planning.shared_image import SharedRef, shared_ref_of
from doit_images.share import publish, transfer
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.transfer import Whole

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage
    from doit_images.share.connection import Machines
    from doit_images.share.share import Share

Answer = TypeVar("Answer")


class Pushing:
    """Results of a run's builder that go to its shared registry: the core's ``PastEngine``."""

    def __init__(self, machines: Machines) -> None:
        self._machines, self._run = machines, machines.run

    @property
    def _share(self) -> Share:
        return self._machines.share

    def output(self, image: Image) -> list[str]:
        """The output argument of a build that the builder pushes under its digest alone. What an engine gave to it, a
        base, is not packed, and is not to travel like that; the builder's own image store, if it has one, needs none of
        it."""
        how = ("push=true", "push-by-digest=true", "compression=gzip", "force-compression=true", "store=false")
        return ["--output", one_line("type=image", f"name={self._repository(image)}", *how)]

    def parents_argv(self, inputs: ImageInputs) -> list[str]:
        """The contexts by which a builder gets an image's parents from the registry. Raises ``UserError``."""
        argv = []
        for context, name in sorted(inputs.parents.items()):
            parent = self._run.planner.decide(name).inputs
            platform = ", ".join(parent.platforms) or self._run.local_images.snapshot().platform
            # The parent was decided when the run began; its fingerprint may be another by now.
            shared_ref = SharedRef(parent.image.ref, inputs.parent_fingerprints[name], platform)
            shared_image = self._share.look({name: shared_ref}).get(name)
            if shared_image is None:
                raise UserError(f"{self._run.settings.cache_registry} does not hold `{name}`", remedy="run it again")
            ref = f"{self._repository(parent.image)}@{shared_image.digest}"
            argv += ["--build-context", f"{context}=docker-image://{ref}"]
        return argv

    def joined(self, image: Image, parts: Mapping[str, str]) -> str:
        """Let the registry hold what was pushed for each platform as one index; its digest. Raises ``UserError``."""
        return self._answered(lambda: transfer.joined(self._share.registry, path_of(image.ref), parts))

    def check(self, decision: Decision) -> None:
        """``UserError`` where what is built could not be pushed, or would be of no use to anybody."""
        share, name = self._share, decision.name
        where = f"{name} is to go to {share.address} (BUILD_OUTPUT=registry)"
        if shared_ref_of(decision.inputs, self._run.local_images.snapshot().platform) is None:
            raise UserError(f"{where}, but its base is unknown", remedy="pin its base by digest, or pull it")
        if not self._run.settings.cache_write:
            raise UserError(f"{where}, which is read-only here", remedy="set CACHE_WRITE=1, or BUILD_OUTPUT=engine")
        if why := share.trust.cannot_sign:
            raise UserError(
                f"{where}, and nobody would accept what this machine pushes: {why}", remedy="doit share_key NAME"
            )
        if not share.writes:
            raise UserError(f"{where}, which is unavailable", remedy="run it again once it answers")

    def named(self, before: Decision, labels: Mapping[str, str], digest: str, seconds: float) -> LocalImage:
        """Give what the builder pushed under this digest, with these labels and in so many seconds, the tag of its
        fingerprint, unless another machine's result counts; what the registry then keeps. ``InputsChanged`` where its
        parents are others by now, ``UserError`` where it is not what was to be built, or does not count."""
        run, name = self._run, before.name
        image = self._pushed(before.inputs, labels, digest)
        made = LocalImage(digest, labels=labels, size=image.size, fixed=False)
        publish.give(self._machines, before, made, seconds, Whole(digest, image.content))
        run.planner.built(name)
        run.local_images.changed()
        shared_ref = shared_ref_of(before.inputs, run.local_images.snapshot().platform)
        kept = self._share.look({name: shared_ref}).get(name) if shared_ref else None
        if kept is None or not offered(before.inputs, kept, before.parents_label):
            if publish.on_shared_parents(self._machines, before) is False:
                raise InputsChanged("a parent changed in the registry")
            address = self._share.address
            raise UserError(f"{name} was built, but {address} holds no valid result of it", remedy="run it again")
        if kept.content != image.content:
            run.events.emit(ImageNoted(name, "another machine shared its result first, which is taken"))
        return made._replace(id=kept.digest, size=kept.size)

    def _pushed(self, inputs: ImageInputs, labels: Mapping[str, str], digest: str) -> SharedImage:
        """The image that the builder pushed, as the registry gives it. ``UserError`` if it is not what was built."""
        asked = ", ".join(inputs.platforms)
        image = self._answered(lambda: self._share.registry.image(path_of(inputs.image.ref), digest, asked))
        if image is None or image.platform != asked:
            raise UserError(
                f"{inputs.name}: what was built is not for {asked}",
                remedy="`docker buildx inspect` lists the platforms of the builder",
            )
        if any(image.labels.get(label) != value for label, value in labels.items()):
            raise UserError(
                f"{inputs.name}: {self._share.address} returned another image for the digest that was built"
            )
        return image

    def _repository(self, image: Image) -> str:
        return f"{self._run.settings.cache_registry}/{path_of(image.ref)}"

    def _answered(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except (Unavailable, NoImage) as error:
            raise UserError(f"the shared registry {self._share.address} {error}") from None
