"""``doit publish``: which names are given to which digests; as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from doit_images.ci import release, release_tags
from doit_images.core.base.errors import UserError
from doit_images.core.run import Run


def publish(
    run: Run,
    images: Sequence[str],
    tag: Sequence[str],
    registry: str,
    *,
    move: bool,
    dirty: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish these images, or those of all services, under these tags, and print each name with its digest. Raises
    ``UserError``; then no name was changed."""
    if not tag:
        raise UserError("publish needs a tag", remedy="--tag v1.2.3; from git: --tag @describe, @branch, @sha")
    folder = run.project.directory
    tags = release_tags.names(folder, tag, changed=release_tags.changed(folder, tag, dirty=dirty))
    chosen = release.releases(run, images, registry)
    if dry_run:
        release.free(chosen, tags, move=move)
    else:
        release.publish(run, chosen, tags, move=move)
    named = [
        {"service": one.service, "name": f"{one.target.name}:{each}", "digest": one.digest}
        for one in chosen
        for each in tags
    ]
    if as_json:
        print(json.dumps(named, indent=2))
        return
    from doit_images.core.base.output import Output, table

    drawn = table("service", "would be named" if dry_run else "name", "digest")
    for row in named:
        drawn.add_row(*row.values())
    Output().print(drawn)
