"""How does a build get its parents, and never another image of that name?

BuildKit looks up in a registry what the engine does not hold. A parent that was removed between plan and build would
then be somebody's image of the same name. So a build names each parent by a temporary name on port 0 of this machine,
where nothing can ever listen: it means the image with the id that was planned on, keeps it from being removed, and
where it is gone all the same, nobody is asked. A name under ``.invalid`` (RFC 2606) would be asked of the DNS, with its
search domains, and of a proxy. BuildKit keeps no name in its cache keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import path_of
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.local_images import LocalImages

HOST = "localhost:0"
"""Where the temporary names of parents are: nowhere."""


class Vanished(Exception):
    """A parent that the engine held when its child was planned is not there any more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"its parent `{name}` was removed")


@dataclass(frozen=True)
class PinnedParents:
    """The parents of one build: ``contexts`` maps each context to a temporary reference, ``ids`` each parent's name to
    its image, ``shown`` each temporary reference to the one that people know."""

    contexts: dict[str, str]
    ids: dict[str, str]
    shown: dict[str, str]

    def lost(self, local_images: LocalImages) -> str:
        """Ask the engine again what it holds; the name of a parent that is not there any more, "" if all are."""
        local_images.changed()
        there = {local_image.id for local_image in local_images.snapshot().every()} if self.ids else set()
        return next((name for name, image_id in self.ids.items() if image_id not in there), "")


@contextlib.contextmanager
def pinned(
    engine: Engine, local_images: LocalImages, inputs: ImageInputs, *, registry_only: bool
) -> Iterator[PinnedParents]:
    """For the block: the parents of an image under temporary names; none where the registry alone is to hold them.
    ``Vanished`` for a parent that is not there, also where that made the block raise ``UserError``."""
    pins = PinnedParents({}, {}, {})
    named: dict[str, str] = {}
    try:
        for context, name in () if registry_only else inputs.parents.items():
            known = inputs.parent_tags[context]
            local_image = local_images.snapshot().get(known)
            if local_image is None:
                raise Vanished(name)
            if name not in named:
                path = path_of(known)
                ref = f"{HOST}/{path}:{temporary_tag.make('parent')}"
                pins.ids[name] = local_image.id
                named[name] = ref
                temporary_tag.note(engine, ref)
                engine.tag(local_image.id, ref)
                pins.shown[ref] = known
            pins.contexts[context] = named[name]
        yield pins
    except UserError:
        if name := pins.lost(local_images):
            raise Vanished(name) from None
        raise
    finally:
        temporary_tag.take_away(engine, named.values())
