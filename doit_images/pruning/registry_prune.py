"""``doit registry_prune``: which shared results does nobody need any more?

A result goes that no branch and no tag of the repository needs (``git_states``), nor this working tree, and that was
made longer ago than REGISTRY_MAX_AGE: other machines may work on something that git does not know yet. That tests
passed goes by its age alone. Caches, and what has any other tag, stay. What is gone too early costs one build, or one
run of the tests.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from doit_images.core.base import platforms
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.references import KEPT, digest_of, kind_of, path_of
from doit_images.core.base.timestamps import epoch_seconds
from doit_images.core.engine.labels import FINGERPRINT, translated
from doit_images.core.run import Run
from doit_images.pruning import git_states
from doit_images.pruning.git_states import Needed
from doit_images.pruning.prune import Item, Kind, Pruning, choose, listed
from doit_images.share import connection, referrers
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.registry import Registry
from doit_images.share.transport import parsed

_AT_ONCE = 16
_DAY = 86400.0
_OLDEST = 400 * _DAY  # after the epoch: what says that it is older has no time of its own (SOURCE_DATE_EPOCH)


class Held(NamedTuple):
    """What a tag names: a digest, the bytes of all its parts by their digests, its images' manifests where it is an
    index, when it was made in seconds since the epoch, 0 if it does not say, for which platforms, and whether it is an
    image with a label of ours."""

    digest: str
    parts: Mapping[str, int]
    children: tuple[str, ...]
    made: float
    platforms: frozenset[str]
    ours: bool


class _Results:
    """The shared results of this project as they were last looked at, with those that somebody needs. Raises as the
    registry and ``git_states`` do."""

    def __init__(self, run: Run, everything: bool) -> None:
        self._run, self._everything = run, everything
        self._registry = connection.of(run).share.registry
        self._known: dict[str, Held] = {}  # by digest
        self._there: dict[str, dict[str, Held]] = {}
        self._lists: dict[str, set[str]] = {}  # tags that list what is attached to something
        self._look({})
        platforms = {one for named in self._there.values() for held in named.values() for one in held.platforms}
        self.needed = git_states.needed(run, platforms)

    def chosen(self) -> Pruning:
        """Those that go."""
        found = items(self._there, self.needed, self._everything)
        return choose(found, self._run.settings.registry_max_age, sys.maxsize, self._everything)

    def chosen_again(self, agreed: Mapping[str, Item]) -> list[tuple[Item, int]]:
        """Those of ``agreed`` that have no other tags and are not needed by now, with the bytes that each frees."""
        self._look(agreed)
        gone = self.chosen().gone
        return [(item, freed) for item, freed in gone if item.key in agreed and item.refs == agreed[item.key].refs]

    def _look(self, agreed: Mapping[str, Item]) -> None:
        """Find out what all tags name; of those that are ``agreed`` to go, only whether they are still there."""
        for path in sorted({path_of(image.ref) for image in self._run.project.images.values()}):
            before = self._there.get(path, {})
            sure = {tag: one for tag, one in before.items() if f"{path}@{one.digest}" in agreed}
            every = self._registry.tags(path)
            self._lists[path] = {tag for tag in every if tag.startswith("sha256-")}
            tags = [tag for tag in every if tag not in self._lists[path]]

            def named(tag: str, path: str = path, sure: Mapping[str, Held] = sure) -> Held | None:
                return sure.get(tag) or _held(self._registry, path, tag, self._known)

            with ThreadPoolExecutor(_AT_ONCE) as pool:
                found = zip(tags, pool.map(named, tags), strict=True)
                self._there[path] = {tag: one for tag, one in found if one}

    def remove(self, gone: Iterable[Item]) -> None:
        """Remove these with all their tags, what is attached to them, and the images of an index that no other tag
        needs."""
        removed = {item.key for item in gone}
        for item in gone:
            path, _, digest = item.key.partition("@")
            named = [one for one in self._there[path].values() if f"{path}@{one.digest}" not in removed]
            stays = {digest for one in named for digest in (one.digest, *one.children)}
            children = [child for child in self._known[digest].children if child not in stays]
            for each in dict.fromkeys((digest, *children, *self._attached(path, digest))):
                self._registry.delete_manifest(path, each)
            connection.of(self._run).share.gone(path, item.refs)

    def _attached(self, path: str, digest: str) -> list[str]:
        """The digests of what is attached to a manifest, and of the list of it that a tag names."""
        found = referrers.attached(self._registry, path, digest) if self._registry.lists_referrers else []
        digests = [str(each.get("digest")) for each in found]
        if (tag := referrers.tag_of(digest)) in self._lists[path]:
            text = self._registry.raw_manifest(path, tag)
            digests += [*(str(each.get("digest")) for each in referrers.listed(parsed(text))), digest_of(text)]
        return digests


def prune(run: Run, dry_run: bool, everything: bool, yes: bool, as_json: bool) -> None:
    """Remove the shared results of this project that nobody needs; with ``everything`` however new they are.

    What would be removed is printed first: for ``dry_run`` to standard output, and that is all; else to standard error,
    and then it is asked about. ``UserError`` without agreement, and where the registry does not answer or deletes
    nothing. Of that, what has other tags or is needed by then stays. A tag costs three requests at most, and further
    ones for each platform of an index and for all that is attached to what goes."""
    settings = run.settings
    if not settings.cache_registry:
        raise UserError("CACHE_REGISTRY is not set, so there is nothing to prune")
    if not (dry_run or settings.cache_write):
        raise UserError("CACHE_WRITE is off on this machine", remedy="--dry-run shows what would go")
    try:
        results = _Results(run, everything)
        first = results.chosen()
        for name, why in results.needed.unread.items():
            print(f"what {name} needs is not known, so its results go by their age: {why}", file=sys.stderr)
        text = summary(run, first, everything)
        if dry_run or not first.gone:
            print(json.dumps(as_data(first), indent=2) if as_json else text)
            return
        print(text, file=sys.stderr)
        if not yes:
            confirm()
        agreed = {item.key: item for item, _ in first.gone}
        again = results.chosen_again(agreed)
        results.remove([item for item, _ in again])
    except (Unavailable, NoImage) as error:
        raise UserError(f"the shared registry {settings.cache_registry} {error}") from None
    if as_json:
        print(json.dumps(as_data(Pruning(tuple(again), first.left)), indent=2))
    for key in agreed.keys() - {item.key for item, _ in again}:
        print(f"{agreed[key].name} stays: it was pushed or tagged again meanwhile", file=sys.stderr)
    freed = size_text(sum(size for _, size in again))
    print(f"removed {len(again)} results; the registry's next collection frees about {freed}", file=sys.stderr)


def items(there: Mapping[str, Mapping[str, Held]], known: Needed, everything: bool) -> list[Item]:
    """All of that, each with why it stays, if it must."""
    found = []
    for path, named in there.items():
        by_digest: dict[str, list[str]] = defaultdict(list)
        for tag, one in named.items():
            by_digest[one.digest].append(tag)
        for tags in map(sorted, by_digest.values()):
            one = named[tags[0]]
            name = f"{path}:{tags[0]}{f' and {len(tags) - 1} more tags' if len(tags) > 1 else ''}"
            needed, idle = _why(path, tags, known, one, everything), max(0.0, time.time() - one.made)
            key = f"{path}@{one.digest}"
            found.append(Item(key, Kind.SHARED, name, one.parts, idle, needed=needed, refs=tuple(tags)))
    return found


def _why(path: str, tags: Sequence[str], known: Needed, one: Held, everything: bool) -> str:
    for tag in tags:
        if not kind_of(tag):
            return f"it is tagged {tag}"
        if kind_of(tag) == KEPT and not one.ours:
            return "it was not built by these tasks"
        if why := known.results.get((path, tag)):
            return why
    for platform in one.platforms if any(kind_of(tag) == KEPT for tag in tags) else ():
        if why := known.unknown.get((path, platform)):
            return why
    return "" if one.made or everything else "it does not say how old it is"


def _held(registry: Registry, path: str, reference: str, known: dict[str, Held]) -> Held | None:
    """What a tag or a digest names; None where it is gone, or is nothing that could be understood. What is ``known`` by
    its digest is not asked for again."""
    if reference in known:
        return known[reference]
    try:
        text = registry.raw_manifest(path, reference)
        digest = digest_of(text)
        if digest not in known:
            known[digest] = _described(registry, path, text, known)
        return known[digest]
    except (NoImage, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _described(registry: Registry, path: str, text: bytes, known: dict[str, Held]) -> Held:
    manifest, digest = parsed(text), digest_of(text)
    if "manifests" in manifest:
        children = tuple(str(entry["digest"]) for entry in manifest["manifests"])
        inner = [one for child in children if (one := _held(registry, path, child, known))]
        parts = {part: size for one in inner for part, size in one.parts.items()}
        some = frozenset(platform for one in inner for platform in one.platforms)
        made = max((one.made for one in inner), default=0.0)
        return Held(digest, {**parts, digest: len(text)}, children, made, some, any(one.ours for one in inner))
    blobs = [manifest["config"], *manifest["layers"]]
    parts = {str(blob["digest"]): int(blob["size"]) for blob in blobs}
    config = parsed(registry.small_blob(path, str(manifest["config"]["digest"])))
    made = epoch_seconds(config.get("created"))
    # A cache, and that tests passed, is of none; attestations say that theirs is unknown.
    some = frozenset() if config.get("os") in (None, "unknown") else frozenset([platforms.of(config)])
    ours = FINGERPRINT in translated((config.get("config") or {}).get("Labels") or {})
    return Held(digest, {**parts, digest: len(text)}, (), made if made > _OLDEST else 0.0, some, ours)


def summary(run: Run, chosen: Pruning, everything: bool) -> str:
    """What would be removed, in words: each result by name, the largest first."""
    age = f"{run.settings.registry_max_age / _DAY:.0f} days"
    if not chosen.gone:
        return f"nothing to prune: every result is needed by a branch or a tag, or younger than {age}"
    why = "no branch and no tag needs them" + ("" if everything else f", and they are older than {age}")
    whole = f"{len(chosen.gone)} results, {size_text(chosen.freed)}, would be removed: {why}"
    return "\n".join([*listed(chosen.gone), whole])


def as_data(chosen: Pruning) -> dict[str, object]:
    """What goes as plain data."""
    return {
        "freed_bytes": chosen.freed,
        "gone": [
            {"name": item.key, "tags": list(item.refs), "bytes": freed, "age_seconds": round(item.idle)}
            for item, freed in chosen.gone
        ],
    }
