"""``doit images``: by which digest each service's image is deployed; as JSON, for Compose and for Kubernetes.
``doit images_kept``: which of these the shared registry keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from doit_images.ci import digests, locks
from doit_images.core.base.errors import UserError
from doit_images.core.run import Run


def show(run: Run, *, as_digests: bool, lock: bool, kustomize: bool) -> None:
    """Print the digest of each service's image, or why it has none, to standard output; with an option as the document
    that it names, which is complete, and which the registry then keeps: ``UserError`` where an image has no digest."""
    if as_digests + lock + kustomize > 1:
        raise UserError("--digests, --lock and --kustomize are three documents", remedy="ask for one at a time")
    images = digests.pinned(run)
    if as_digests or lock or kustomize:
        kept = locks.keep(run, digests.complete(images))
        if as_digests:
            plain = [{**one._asdict(), "digest": one.digest} for one in images]
            print(json.dumps({"project": run.project.name, "kept": kept, "images": plain}, indent=2))
            return
        if kept:
            print(f"# {run.settings.cache_registry} keeps these until `doit images_kept --release {kept}`.")
        print(digests.override(images) if lock else digests.kustomization(images))
    else:
        from doit_images.core.base.output import Output, table

        drawn = table("service", "image", "digest")
        for one in images:
            drawn.add_row(one.service, one.image, one.reference or one.why)
        Output().print(drawn)


def kept(run: Run, words: Sequence[str], *, release: bool, as_json: bool) -> None:
    """Print which locks the registry keeps, or only those that begin like ``words``, with their images; or ``release``
    these. Raises ``UserError``."""
    if release:
        gone = locks.release(run, words)
        print(f"released {len({one.lock for one in gone})} locks of {len(gone)} images", file=sys.stderr)
        return
    found = [one for one in locks.kept(run) if not words or one.lock.startswith(tuple(words))]
    if as_json:
        print(json.dumps([one._asdict() for one in found], indent=2))
        return
    from doit_images.core.base.output import Output, table

    drawn = table("lock", "repository", "digest")
    for one in found:
        drawn.add_row(*one)
    Output().print(drawn)
