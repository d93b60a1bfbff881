"""``doit sbom``: which packages do the images hold? Written as SPDX documents, and attached to shared images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.base.errors import UserError
from tasks.base.files import replace as write_file
from tasks.planning.plan import Decision
from tasks.run import Run
from tasks.sbom import spdx
from tasks.sbom.installed import installed
from tasks.sharing import referrers
from tasks.sharing.registry import NoImage, Registry
from tasks.sharing.share import wanted_of
from tasks.sharing.transport import Unavailable
from tasks.updating import locks

TOOL = "vllm-local-swarm"


def make(run: Run, images: Sequence[str], attach: bool) -> None:
    """Write the document of each of these images (default: all that are fresh) to the project's folder, and print where
    it is; ``attach`` it to the image in the shared registry. ``UserError`` for an image that is not fresh."""
    decisions = run.decisions()
    names = [run.project.image(name).name for name in images] or list(decisions)
    stale = [name for name in names if decisions[name].stale]
    if stale:
        remedy = f"doit {' '.join(f'build_optimized:{name}' for name in stale)}"
        raise UserError(f"what is here of {', '.join(stale)} is not what the sources give", remedy=remedy)
    pinned = _pinned(run)
    for name in names:
        content = _document(run, decisions[name], pinned)
        path = run.folder / "sbom" / f"{name}.spdx.json"
        write_file(path, content)
        print(path)
        if attach:
            print(_attached(run, decisions[name], content))


def _pinned(run: Run) -> dict[str, str]:
    texts = locks.texts(run.project.directory).values()
    return {name: version for text in texts for name, version in locks.pins(text).items()}


def _document(run: Run, decision: Decision, pinned: Mapping[str, str]) -> bytes:
    image = run.snapshot().get(decision.inputs.image.ref)
    if image is None:
        raise UserError(f"the engine does not hold {decision.inputs.image.ref}", remedy="doit build_optimized")
    subject = spdx.Subject(decision.inputs.image.ref, image.id, decision.inputs.fingerprint, image.created)
    return spdx.document(subject, installed(image.id), pinned, TOOL)


def _attached(run: Run, decision: Decision, content: bytes) -> str:
    wanted = wanted_of(decision.inputs, run.snapshot().platform)
    if not run.settings.cache_registry or wanted is None:
        raise UserError("there is no shared image to attach it to", remedy="set CACHE_REGISTRY, and build there")
    registry = Registry(run.settings.cache_registry)
    try:
        shared = registry.image(wanted.path, wanted.tag, wanted.platform)
        if shared is None:
            raise UserError(
                f"{registry.address} does not hold {wanted.path}:{wanted.tag}", remedy="doit build_optimized"
            )
        attachment = referrers.Attachment(spdx.MEDIA_TYPE, spdx.MEDIA_TYPE, content, {})
        digest = referrers.attach(registry, wanted.path, shared.digest, attachment)
    except (Unavailable, NoImage) as error:
        raise UserError(f"the shared registry {registry.address} {error}") from None
    return f"{registry.address}/{wanted.path}@{digest}"
