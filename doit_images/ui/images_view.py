"""``doit images``: by which digest each service's image is deployed; as JSON, for Compose and for Kubernetes."""

from __future__ import annotations

import json

from doit_images.ci import digests
from doit_images.core.base.errors import UserError
from doit_images.core.run import Run


def show(run: Run, as_digests: bool, lock: bool, kustomize: bool) -> None:
    """Print the digest of each service's image, or why it has none, to standard output; with an option as the document
    that it names, which is complete: ``UserError`` where an image has no digest."""
    if as_digests + lock + kustomize > 1:
        raise UserError("--digests, --lock and --kustomize are three documents", remedy="ask for one at a time")
    images = digests.pinned(run)
    if as_digests:
        plain = [{**one._asdict(), "digest": one.digest} for one in digests.complete(images)]
        print(json.dumps({"project": run.project.name, "images": plain}, indent=2))
    elif lock:
        print(digests.override(digests.complete(images)))
    elif kustomize:
        print(digests.kustomization(digests.complete(images)))
    else:
        from doit_images.core.base.output import Output, table

        drawn = table("service", "image", "digest")
        for one in images:
            drawn.add_row(one.service, one.image, one.reference or one.why)
        Output().print(drawn)
