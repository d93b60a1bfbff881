"""``doit publish``: how do images that were built and tested here get the names by which people use them?

By the digest that the shared registry holds, signed and attested as it is, all of them or none: first everything is
copied without a name, then the names are given, and taken back where one cannot be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from doit_images.ci import release_parts
from doit_images.ci.digests import complete, pinned
from doit_images.ci.release_parts import Parts
from doit_images.ci.testing import planned
from doit_images.ci.testing.planned import PlannedState
from doit_images.core.base import oci
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import Events
from doit_images.core.base.references import digest_of, path_of, repository
from doit_images.core.run import Run
from doit_images.share import connection, keep_tags, share
from doit_images.share.copying import Place, copy
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.registry import Registry


class Release(NamedTuple):
    """An image, by the name of its service, the digest by which the shared registry holds it, from where to where it
    goes, and what it is joined from."""

    service: str
    digest: str
    source: Place
    target: Place
    parts: Parts | None = None


def releases(run: Run, images: Sequence[str], to: str) -> list[Release]:
    """What is to be published: these images, or those of all services that have containers; ``to`` this registry, or
    where the Compose file says (""). ``UserError`` where one is not shared, or did not pass its tests."""
    found = [one for one in pinned(run, images) if one.fingerprint]
    joined = release_parts.of(run, [one.service for one in found if not one.reference])
    if not complete([one for one in found if one.service not in joined]) and not joined:
        raise UserError("none of these services has an image that is built here", remedy="doit images")
    _passed(run.events, run, {one.service for one in found} - joined.keys())
    if joined:
        _passed(run.events, release_parts.run_here(run), {*joined})
    shared = connection.of(run).share.registry
    registries, chosen = {shared.address: shared}, dict[Place, Release]()
    for one in found:
        path, parts = path_of(one.image), joined.get(one.service)
        address = to.rstrip("/") or repository(one.image).removesuffix(path).rstrip("/") or shared.address
        there = registries.setdefault(address, Registry(address, insecure=share.insecure))
        digest = parts.digest if parts else one.digest
        release = Release(one.service, digest, Place(shared, path), Place(there, path), parts)
        other = chosen.setdefault(release.target, release)
        if other.digest != digest:
            raise UserError(f"{other.service} and {one.service} would both be {release.target.name}")
    return [*chosen.values()]


def _passed(events: Events, there: Run, services: set[str]) -> None:
    """``UserError`` unless all tests of these images of ``there`` passed on just what would be published."""
    tests = [name for name, test in planned.tests_of(there.project, there.planner).items() if test.service in services]
    due = dict[str, str]()
    for name, one in planned.plan(there, tests).items():
        if one.state == PlannedState.TEST and not one.test.cache:
            events.say(f"{name} cannot be known to have passed on this: {planned.NEVER}")
        elif one.state != PlannedState.PASSED:
            due[name] = one.problem or "; ".join(one.reasons)
    if due:
        why = "; ".join(f"{name} did not pass on it: {reason}" for name, reason in due.items())
        remedy = f"doit {' '.join(f'test_image:{name}' for name in due)}"
        raise UserError(f"only what was tested is published: {why}", remedy=remedy)


def publish(run: Run, chosen: Sequence[Release], tags: Mapping[str, bool], *, move: bool) -> None:
    """Give all of these all tags, each of which is fixed or not, or change no name and raise ``UserError``; a fixed one
    that means another image is left alone, unless it is to ``move``."""
    free(chosen, tags, move=move)
    texts = dict[Place, bytes]()
    for one in chosen:
        run.events.say(f"{one.service}: copying {one.digest[:19]} to {one.target.name}")
        with _asking(one.source.registry, one.target.registry):
            if one.parts:
                release_parts.join(connection.of(run).share.trust, one.source, one.parts)
            texts[one.target] = copy(one.source, one.target, one.digest)
    before = free(chosen, tags, move=move)  # somebody may have published meanwhile
    given = list[tuple[Place, str]]()
    try:
        # A registry in which tags are immutable refuses to move one: before a new one is there, which would stay.
        for place, tag in sorted(before, key=lambda name: before[name] is None):
            given.append((place, tag))
            _give(place, tag, texts[place])
    except BaseException as error:
        left = [f"{place.name}:{tag}" for place, tag in given if not _taken_back(place, tag, before[place, tag])]
        if not isinstance(error, Unavailable):
            raise
        so = f"what these names mean now is not known: {', '.join(left)}" if left else "no name was changed"
        raise UserError(f"{given[-1][0].name}:{given[-1][1]} cannot be given: the registry {error}; {so}") from None


def free(chosen: Sequence[Release], tags: Mapping[str, bool], *, move: bool) -> dict[tuple[Place, str], bytes | None]:
    """The manifest that each name means now, None for one that is not there. Raises as ``publish``."""
    found = dict[tuple[Place, str], bytes | None]()
    for one in chosen:
        for tag, fixed in tags.items():
            with _asking(one.target.registry):
                text = found[one.target, tag] = _at(one.target, tag)
            if fixed and not move and text is not None and digest_of(text) != one.digest:
                why = f"{one.target.name}:{tag} is {digest_of(text)[:19]}, which is not what is here"
                raise UserError(why, remedy="take another tag; publish --move moves this one")
    return found


def _at(place: Place, tag: str) -> bytes | None:
    with suppress(NoImage):
        return place.registry.raw_manifest(place.path, tag)
    return None


def _give(place: Place, tag: str, text: bytes) -> None:
    place.registry.give_manifest(place.path, tag, oci.media_type_of(json.loads(text)), text)


def _taken_back(place: Place, tag: str, text: bytes | None) -> bool:
    """Whether a tag means again what it did before, or is gone."""
    with suppress(Unavailable, NoImage):
        if _at(place, tag) == text:
            return True
        _give(place, tag, text) if text else keep_tags.remove(place.registry, place.path, tag)
        return True
    return False


@contextmanager
def _asking(*registries: Registry) -> Iterator[None]:
    try:
        yield
    except (Unavailable, NoImage) as error:
        where = " or ".join(dict.fromkeys(registry.address for registry in registries))
        raise UserError(f"nothing was published: the registry {where} {error}") from None
