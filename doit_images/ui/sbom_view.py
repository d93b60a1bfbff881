"""``doit sbom``: which packages do the images hold? Written as SPDX documents, and attached to shared images."""

from __future__ import annotations

from collections.abc import Sequence

from doit_images.ci.sbom import spdx
from doit_images.ci.sbom.installed import installed
from doit_images.ci.updating import locks
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from doit_images.ui import documents

_KIND = documents.Kind("sbom", ".spdx.json", spdx.MEDIA_TYPE)


def make(run: Run, images: Sequence[str], attach: bool) -> None:
    """Write the document of each of these images, see ``documents.make``."""
    texts = locks.texts(run.project.directory).values()
    pinned = {name: version for text in texts for name, version in locks.pins(text).items()}

    def content(decision: Decision, image: LocalImage, digest: str) -> bytes:
        subject = spdx.Subject(decision.inputs.image.ref, image.id, decision.inputs.fingerprint, image.created)
        return spdx.document(subject, installed(run.engine, image.id), pinned, documents.TOOL)

    documents.make(run, images, _KIND, content, attach=attach)
