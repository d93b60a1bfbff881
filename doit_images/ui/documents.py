"""Documents about images: written to the project's folder, and attached to the shared image that they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.base.files import replace as write_file
from doit_images.core.base.references import path_of
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.plan import Decision
from doit_images.core.planning.wanted import wanted_of
from doit_images.core.run import Run
from doit_images.share import connection, referrers
from doit_images.share.no_answer import NoImage, Unavailable

TOOL = "doit-images"


class Kind(NamedTuple):
    """A kind of document: the folder and the ending of its files, its media type, annotations for whoever lists it."""

    folder: str
    ending: str
    media_type: str
    annotations: Mapping[str, str] = {}


Content = Callable[[Decision, LocalImage, str], bytes]
"""What a document says of an image, where the engine holds it, and by which digest it is known to who reads it."""


def make(run: Run, images: Sequence[str], kind: Kind, content: Content, *, attach: bool) -> None:
    """Write the document of each of these images (default: all) and print where it is; ``attach`` it to the image in
    the shared registry. ``UserError`` for an image that is not fresh."""
    run.settings.need_engine()
    decisions = run.planner.decisions()
    names = [run.project.image(name).name for name in images] or list(decisions)
    stale = [name for name in names if decisions[name].stale]
    if stale:
        remedy = f"doit {' '.join(f'build:{name}' for name in stale)}"
        raise UserError(f"what is here of {', '.join(stale)} is not what the sources give", remedy=remedy)
    for name in names:
        ref = decisions[name].inputs.image.ref
        image = run.local_images.snapshot().get(ref)
        if image is None:
            raise UserError(f"the engine does not hold {ref}", remedy="doit build")
        try:
            digest = _shared(run, decisions[name]) if attach else image.id
            document = content(decisions[name], image, digest)
            path = run.folder / kind.folder / f"{name}{kind.ending}"
            write_file(path, document)
            print(path)
            if attach:
                registry, repository = connection.of(run).share.registry, path_of(ref)
                attachment = referrers.Attachment(kind.media_type, document, kind.annotations)
                attached = referrers.attach(registry, repository, digest, attachment)
                print(f"{registry.address}/{repository}@{attached}")
        except (Unavailable, NoImage) as error:
            raise UserError(f"the shared registry {run.settings.cache_registry} {error}") from None


def _shared(run: Run, decision: Decision) -> str:
    """The digest of an image in the shared registry; ``UserError`` where it is not there."""
    wanted = wanted_of(decision.inputs, run.local_images.snapshot().platform)
    if not run.settings.cache_registry or wanted is None:
        raise UserError("there is no shared image to attach it to", remedy="set CACHE_REGISTRY, and build there")
    shared = connection.of(run).share.registry.image(wanted.path, wanted.tag, wanted.platform)
    if shared is None:
        where = f"{run.settings.cache_registry} does not hold {wanted.path}:{wanted.tag}"
        raise UserError(where, remedy="doit build")
    return shared.digest
