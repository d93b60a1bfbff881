"""Does each container run the image that was built for it?

Compose makes containers from names, and a name may be another checkout's by the time that it does: both build
``shop/web``, each for its own working tree. So the names are put right first, and every container is looked at before
any of them is started. Nothing else would do that Compose takes for the same declaration: an id or another tag as the
image is another configuration, and the next ``docker compose up`` that somebody types would recreate all containers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import tag_of
from doit_images.core.base.timestamps import epoch_seconds
from doit_images.core.compose.stack import Service
from doit_images.core.engine.client import Engine, normalise
from doit_images.core.planning import record
from doit_images.core.planning.plan import Action
from doit_images.core.run import Run
from doit_images.stack.containers import Container


@dataclass(frozen=True)
class Kept:
    """An image of this project as this checkout has it: its names, which another may have taken meanwhile, the tag of
    its fingerprint, which none takes, and its id."""

    names: tuple[str, ...]
    tag: str
    id: str


def kept(run: Run) -> dict[str, Kept]:
    """Each image of this project as it should be run now, by the service that builds it.

    Where a file was edited since it was built, that is what was built here last. An image that the engine does not hold
    is left out. ``UserError`` where it is to hold none.
    """
    run.settings.need_engine()
    now = run.anew()  # what builds of this run took in may be newer than its plan
    snapshot = now.local_images.snapshot()
    found: dict[str, Kept] = {}
    for name, decision in now.planner.decisions().items():
        image, local_image = decision.inputs.image, decision.local_image
        tag = tag_of(image.ref, decision.inputs.fingerprint)
        if decision.action not in (Action.FRESH, Action.RETAG):
            last = record.read(now.folder, name)
            tag = tag_of(last.ref, last.fingerprint) if last and last.ref == image.ref else ""
            local_image = snapshot.get(tag) if tag else None
        if local_image:
            found[name] = Kept(image.names, tag, local_image.id)
    return found


def built(run: Run) -> dict[str, str]:
    """The id of the image that each name and tag of this project's images should stand for now: see ``kept``."""
    return named(kept(run))


def named(images: Mapping[str, Kept]) -> dict[str, str]:
    """The id of the image that each of their names and tags should stand for, by normalised name."""
    return {normalise(name): image.id for image in images.values() for name in (*image.names, image.tag)}


def put_names_right(engine: Engine, services: Mapping[str, Service], images: Mapping[str, str]) -> None:
    """Make each name that a service is started from, or mounts, refer to the image that was built for it."""
    snapshot = engine.snapshot()
    for name in {normalise(ref) for service in services.values() for ref in service.images} & images.keys():
        local_image = snapshot.get(name)
        if local_image is None or local_image.id != images[name]:
            engine.tag(images[name], name)


def wrong(
    engine: Engine, containers: Sequence[Container], services: Mapping[str, Service], images: Mapping[str, str]
) -> list[Container]:
    """The containers that were made from a wrong image."""
    known = [container for container in containers if container.service in services]
    wanted = [(container, images.get(normalise(services[container.service].image))) for container in known]
    own = [container for container, image_id in wanted if image_id and not same(engine, container.image_id, image_id)]
    return own + [container for container in mounting_others(engine, known, images) if container not in own]


def mounting_others(engine: Engine, containers: Iterable[Container], images: Mapping[str, str]) -> list[Container]:
    """The containers that may mount another image than the one that was built for them.

    The engine keeps of such a mount the image's name alone: what that meant when the container was made is certain only
    if the image got no name since. Compose, before 5, does not look.
    """

    def certain(ref: str, container: Container) -> bool:
        wanted = images.get(normalise(ref))
        if wanted is None:
            return True
        image_id, _, when = engine.tagged(ref).partition(" ")
        return same(engine, image_id, wanted) and epoch_seconds(when) < container.created

    return [one for one in containers if not all(certain(ref, one) for ref in one.images)]


def same(engine: Engine, image_id: str, other_id: str) -> bool:
    """Whether two ids are one image: containerd's store may call it by its index or by its manifest."""
    if image_id == other_id:
        return True
    try:
        return engine.config_of(image_id).content == engine.config_of(other_id).content
    except UserError:
        return False
