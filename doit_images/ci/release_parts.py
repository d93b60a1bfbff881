"""How does what machines of each kind built and shared, each for its platform, become one image for all?

Each part is a result of its own, signed by whoever built it. Joined they are an index, which is always the same of the
same parts, and which whoever joins it signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doit_images.ci.digests import complete, pinned
from doit_images.core.base import platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import digest_of, path_of
from doit_images.core.compose.answer import PLATFORMS
from doit_images.core.run import Run
from doit_images.share import connection, signatures, transfer
from doit_images.share.copying import Place
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.signing import NotSigned
from doit_images.share.trusted import Claimed, Trust


class Parts(NamedTuple):
    """An index: its digest, the digest of each of its parts by platform, and a fingerprint of theirs."""

    digest: str
    by_platform: Mapping[str, str]
    fingerprint: str


def of(run: Run, services: Sequence[str]) -> dict[str, Parts]:
    """What would be joined for these services, where several platforms are asked for (PLATFORMS). ``UserError`` where
    the shared registry lacks the result for one of them."""
    found = dict[str, Parts]()
    if len(run.settings.platforms) < 2 or not services:
        return found
    alone = {one: complete(pinned(_run_for(run, one), services)) for one in run.settings.platforms}
    share = connection.of(run).share
    for row in zip(*alone.values(), strict=True):
        by_platform = {platform: one.digest for platform, one in zip(alone, row, strict=True)}
        numbers = "\n".join(f"{platform} {one.fingerprint}" for platform, one in zip(alone, row, strict=True))
        try:
            text = transfer.index_for(share.registry, path_of(row[0].image), by_platform)
        except (Unavailable, NoImage) as error:
            raise UserError(f"{row[0].service}: the shared registry {share.address} {error}") from None
        fingerprint = digest_of(numbers.encode()).partition(":")[2]
        found[row[0].service] = Parts(digest_of(text), by_platform, fingerprint)
    return found


def run_here(run: Run) -> Run:
    """A run for the one platform of these that is the engine's, on which tests can be known to have passed: those for
    another run where that is, which is said."""
    here = platforms.chosen(run.settings.platforms, run.local_images.snapshot().platform)
    others = ", ".join(one for one in run.settings.platforms if one != here)
    run.events.say(f"whether tests passed on {others} is known on such a machine alone")
    return _run_for(run, here or run.settings.platforms[0])


def _run_for(run: Run, platform: str) -> Run:
    return run.anew({**run.environ, PLATFORMS: platform})


def join(trust: Trust, place: Place, parts: Parts) -> None:
    """Let the shared registry hold the index, signed by this machine unless somebody trusted did so. ``UserError``
    where nobody would take its signature. Raises ``Unavailable`` and ``NoImage``."""
    transfer.joined(place.registry, place.path, parts.by_platform)
    claimed = Claimed(parts.digest, parts.fingerprint, ", ".join(parts.by_platform))
    if not trust.need or not trust.judge(claimed, signatures.bundles(place.registry, place.path, parts.digest))[0]:
        return
    if why := trust.cannot_sign:
        raise UserError(f"nobody would accept what this machine joins: {why}", remedy="doit share_key NAME")
    try:
        bundle = trust.sign_claimed(claimed)
    except NotSigned as error:
        raise UserError(f"{place.name} could not be signed: {error}") from None
    signatures.give(place.registry, place.path, parts.digest, bundle)
