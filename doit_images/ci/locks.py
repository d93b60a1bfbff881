"""Which locks does the shared registry keep, and for how long? Each until it is released."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from doit_images.ci.digests import PinnedService
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import path_of
from doit_images.core.run import Run
from doit_images.share import connection, keep_tags
from doit_images.share.no_answer import NoImage, Unavailable


class Locked(NamedTuple):
    """An image that the registry keeps: for which lock, in which repository, by which digest."""

    lock: str
    repository: str
    digest: str


def keep(run: Run, images: Sequence[PinnedService]) -> str:
    """Let the shared registry keep those of these images that were built here; what the lock is called. "" where there
    is none, and where the registry does not take it: that is said, for the images can be deployed all the same."""
    address, ours = run.settings.cache_registry, [one for one in images if one.fingerprint]
    if not ours:
        return ""
    lock, why = keep_tags.lock_of((one.reference for one in ours), time.time()), ""
    if not run.settings.cache_write:
        why = "CACHE_WRITE is off on this machine"
    try:
        for one in () if why else ours:
            keep_tags.keep(connection.of(run).share.registry, path_of(one.image), one.digest, lock)
    except (Unavailable, NoImage) as error:
        why = f"it {error}"
    if why:
        so = "what is locked is not kept there, and `registry_prune` may remove it"
        run.events.say(f"the shared registry {address}: {so}: {why} (lock it on a machine that may push)")
    return "" if why else lock


def kept(run: Run) -> list[Locked]:
    """What the registry keeps of this project's images, the oldest lock first. Raises ``UserError``."""
    if not run.settings.cache_registry:
        raise UserError("CACHE_REGISTRY is not set, so nothing is kept anywhere")
    paths = {path_of(image.ref) for image in run.project.images.values()}
    registry = connection.of(run).share.registry
    try:
        return sorted(Locked(lock, path, one) for path in paths for lock, one in keep_tags.kept(registry, path).items())
    except (Unavailable, NoImage) as error:
        raise UserError(f"the shared registry {run.settings.cache_registry} {error}") from None


def release(run: Run, wanted: Sequence[str]) -> list[Locked]:
    """Let the registry keep the locks that begin like one of these no more; what they were. Raises ``UserError``."""
    if not wanted or not all(wanted):
        raise UserError("images_kept --release takes the locks that are to go", remedy="or how they begin: 2026-11")
    if not run.settings.cache_write:
        raise UserError("CACHE_WRITE is off on this machine")
    there = kept(run)
    for word in wanted:
        if not any(one.lock.startswith(word) for one in there):
            raise UserError(f"the registry keeps no lock that begins with {word}", remedy="doit images_kept")
    gone = [one for one in there if one.lock.startswith(tuple(wanted))]
    try:
        for one in gone:
            keep_tags.release(connection.of(run).share.registry, one.repository, one.lock)
    except (Unavailable, NoImage) as error:
        raise UserError(f"the shared registry {run.settings.cache_registry} {error}") from None
    return gone
