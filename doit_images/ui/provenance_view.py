"""``doit provenance``: what were the images made of, and how? Written as SLSA statements, attached to shared images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from doit_images.ci.sbom import provenance
from doit_images.ci.sbom.attached import PROVENANCE
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import LocalImage
from doit_images.core.history.store import Build, Status
from doit_images.core.planning.action import Action
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from doit_images.ui import documents


def make(run: Run, images: Sequence[str], attach: bool) -> None:
    """Write the statement of each of these images, see ``documents.make``. ``UserError`` for one that was not built
    here: only who built it can say how."""

    def content(decision: Decision, image: LocalImage, digest: str) -> documents.Documents:
        build, inputs = _build_of(run, decision, image), decision.inputs
        images = run.project.images
        parents = {images[name].ref: inputs.parent_fingerprints[name] for name in inputs.parents.values()}
        made = provenance.Made(inputs.image.ref, inputs.fingerprint, inputs.build_inputs(), parents)
        return {PROVENANCE: provenance.statement(digest, made, build, documents.TOOL)}

    documents.make(run, images, "provenance", content, attach=attach)


def _build_of(run: Run, decision: Decision, image: LocalImage) -> Build:
    """The build that made this image, for whichever of the services that share it."""
    names = [name for name, each in run.project.images.items() if each.ref == decision.inputs.image.ref]
    for build in chain.from_iterable(map(run.history.recent, names)):
        if (build.image_id, build.action, build.status) == (image.id, Action.BUILD, Status.DONE):
            return build
    raise UserError(
        f"no build of {decision.name} here is known to have made {image.id[:19]}…, so nothing can be said of how",
        remedy="ask the machine that built it",
    )
