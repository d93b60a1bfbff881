"""Documents about images: written to the project's folder, and attached to the shared image that they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from doit_images.ci.sbom.attached import Kind
from doit_images.ci.sbom.attached import attach as give
from doit_images.core.base.errors import UserError
from doit_images.core.base.files import replace as write_file
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.plan import Decision
from doit_images.core.planning.wanted import Wanted, wanted_of
from doit_images.core.run import Run
from doit_images.share import connection
from doit_images.share.no_answer import NoImage, Unavailable

TOOL = "doit-images"


Documents = Mapping[Kind, Mapping[str, Any]]
Content = Callable[[Decision, LocalImage, str], Documents]
"""What documents say of an image, where the engine holds it, and by which digest it is known to who reads them."""


def make(run: Run, images: Sequence[str], folder: str, content: Content, *, attach: bool) -> None:
    """Write the documents of each of these images (default: all) and print where they are; ``attach`` them to the image
    in the shared registry. ``UserError`` for an image that is not fresh."""
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
            wanted, digest = _shared(run, decisions[name]) if attach else (None, image.id)
            for kind, document in content(decisions[name], image, digest).items():
                path = run.folder / folder / f"{name}{kind.ending}"
                write_file(path, json.dumps(document, indent=1, sort_keys=True).encode())
                print(path)
                if wanted:
                    share = connection.of(run).share
                    print(f"{share.address}/{wanted.path}@{give(share, wanted, digest, kind, document)}")
        except (Unavailable, NoImage) as error:
            raise UserError(f"the shared registry {run.settings.cache_registry} {error}") from None


def _shared(run: Run, decision: Decision) -> tuple[Wanted, str]:
    """An image in the shared registry, and its digest there; ``UserError`` where it is not there."""
    wanted = wanted_of(decision.inputs, run.snapshot().platform)
    if not run.settings.cache_registry or wanted is None:
        raise UserError("there is no shared image to attach it to", remedy="set CACHE_REGISTRY, and build there")
    shared = connection.of(run).share.registry.image(wanted.path, wanted.tag, wanted.platform)
    if shared is None:
        where = f"{run.settings.cache_registry} does not hold {wanted.path}:{wanted.tag}"
        raise UserError(where, remedy="doit build")
    return wanted, shared.digest
