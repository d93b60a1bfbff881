"""``doit sbom``: which packages do the images hold? Written in the forms that are common, and attached to shared
images."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from doit_images.ci.sbom.attached import CYCLONEDX, SPDX, SPDX_3
from doit_images.ci.sbom.bom import Subject, bom, cyclonedx, spdx, spdx_3
from doit_images.ci.sbom.installed import installed
from doit_images.ci.updating import locks
from doit_images.core.base.errors import printable
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from doit_images.ui import documents


def make(run: Run, images: Sequence[str], attach: bool) -> None:
    """Write the documents of each of these images, see ``documents.make``, and say on standard error what is not in
    them."""
    texts = locks.texts(run.project.directory).values()
    pinned = {name: version for text in texts for name, version in locks.pins(text).items()}

    def content(decision: Decision, image: LocalImage, digest: str) -> documents.Documents:
        subject = Subject(decision.inputs.image.ref, image.id, decision.inputs.fingerprint, image.created)
        made = bom(subject, installed(run.engine, image.id), pinned, documents.TOOL)
        for each in made.unknown:
            print(printable(f"sbom: of {decision.name} no packages are known of {each}"), file=sys.stderr)
        return {SPDX: spdx(made), SPDX_3: spdx_3(made), CYCLONEDX: cyclonedx(made)}

    documents.make(run, images, "sbom", content, attach=attach)
