"""``doit sbom`` and ``doit provenance``: which packages do the images hold, and how were they made?

As documents in the project's folder, and beside the shared images that they are about.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from doit_images.ci.sbom import attached
from doit_images.ci.sbom.attached import CYCLONEDX, PROVENANCE, SPDX, SPDX_3, DocumentKind
from doit_images.core.base.errors import UserError, printable
from doit_images.core.base.files import replace as write_file
from doit_images.core.compose.project import Project
from doit_images.core.engine.client import LocalImage
from doit_images.core.history.store import Build, History, Status
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import SharedRef, shared_ref_of
from doit_images.core.run import Run
from doit_images.share import connection
from doit_images.share.no_answer import NoImage, Unavailable

_TOOL = "doit-images"
Documents = Mapping[DocumentKind, Mapping[str, object]]
Content = Callable[[Decision, LocalImage, str], Documents]
"""What documents say of an image that the engine holds, and that its readers know by this digest."""


def sbom(run: Run, images: Sequence[str], *, attach: bool) -> None:
    """Write the bills of materials of these images, see ``make``; say on standard error what they leave out."""
    from doit_images.ci.sbom.bom import Bom, cyclonedx, parts_of, spdx, spdx_3
    from doit_images.ci.sbom.installed import installed
    from doit_images.ci.updating import locks

    texts = locks.texts(run.project.directory)
    pinned = {
        name: version
        for lock in texts
        if lock.name != locks.NPM
        for name, version in locks.pins(lock, texts[lock]).items()
    }

    def content(decision: Decision, image: LocalImage, digest: str) -> Documents:
        inputs, found = decision.inputs, installed(run.engine, image.id)
        image_of = (inputs.image.ref, image.id, inputs.fingerprint, image.created)
        bom = Bom(*image_of, parts_of(found, pinned), found.unknown, _TOOL)
        for each in bom.unknown:
            print(printable(f"sbom: of {decision.name} no packages are known of {each}"), file=sys.stderr)
        return {SPDX: spdx(bom), SPDX_3: spdx_3(bom), CYCLONEDX: cyclonedx(bom)}

    make(run, images, "sbom", content, attach=attach)


def provenance(run: Run, images: Sequence[str], *, attach: bool) -> None:
    """Write the provenance of these images, see ``make``. ``UserError`` for an image that was not built here: only its
    builder can say how."""
    from doit_images.ci.sbom.provenance import Made, statement

    def content(decision: Decision, image: LocalImage, digest: str) -> Documents:
        build, inputs = _build_of(run.project, run.history, decision, image), decision.inputs
        images = run.project.images
        parents = {images[name].ref: inputs.parent_fingerprints[name] for name in inputs.parents.values()}
        made = Made(inputs.image.ref, inputs.fingerprint, inputs.build_inputs(), parents)
        return {PROVENANCE: statement(digest, made, build, _TOOL)}

    make(run, images, "provenance", content, attach=attach)


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
            shared_ref, digest = _shared(run, decisions[name]) if attach else (None, image.id)
            for kind, document in content(decisions[name], image, digest).items():
                path = run.folder / folder / f"{name}{kind.ending}"
                write_file(path, attached.text_of(document))
                print(path)
                if shared_ref:
                    share = connection.of(run).share
                    attachment = attached.attach(share, shared_ref, digest, kind, document)
                    print(f"{share.address}/{shared_ref.path}@{attachment}")
        except (Unavailable, NoImage) as error:
            raise UserError(f"the shared registry {run.settings.cache_registry} {error}") from None


def _shared(run: Run, decision: Decision) -> tuple[SharedRef, str]:
    """An image in the shared registry, and its digest there; ``UserError`` where it is not there."""
    shared_ref = shared_ref_of(decision.inputs, run.local_images.snapshot().platform)
    if not run.settings.cache_registry or shared_ref is None:
        raise UserError("there is no shared image to attach it to", remedy="set CACHE_REGISTRY, and build there")
    shared = connection.of(run).share.registry.image(shared_ref.path, shared_ref.tag, shared_ref.platform)
    if shared is None:
        where = f"{run.settings.cache_registry} does not hold {shared_ref}"
        raise UserError(where, remedy="doit build")
    return shared_ref, shared.digest


def _build_of(project: Project, history: History, decision: Decision, image: LocalImage) -> Build:
    """The build that made this image, for whichever of the services that share it."""
    names = [name for name, each in project.images.items() if each.ref == decision.inputs.image.ref]
    for build in chain.from_iterable(map(history.recent, names)):
        if (build.image_id, build.action, build.status) == (image.id, Action.BUILD, Status.DONE):
            return build
    raise UserError(
        f"the history here does not know the build of {decision.name} that made {image.id[:19]}…",
        remedy="ask the machine that built it",
    )
