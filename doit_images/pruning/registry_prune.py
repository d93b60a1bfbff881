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
from collections.abc import Callable, Mapping, Sequence
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
from doit_images.pruning.prune import Item, Kind, Pruning, choose
from doit_images.share import connection, referrers
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.registry import Registry

_AT_ONCE = 16
_SHOWN = 20
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


def prune(run: Run, dry_run: bool, everything: bool, yes: bool, as_json: bool) -> None:
    """Remove the shared results of this project that nobody needs; with ``everything`` however new they are.

    What would be removed is printed first: for ``dry_run`` to standard output, and that is all; else to standard error,
    and then it is asked about. ``UserError`` without agreement, and where the registry does not answer or deletes
    nothing. Of that, what has other tags or is needed by then stays: all is looked at again."""
    settings = run.settings
    if not settings.cache_registry:
        raise UserError("CACHE_REGISTRY is not set, so there is nothing to prune")
    if not (dry_run or settings.cache_write):
        raise UserError("CACHE_WRITE is off on this machine", remedy="--dry-run shows what would go")
    try:
        _prune(run, (dry_run, everything, yes, as_json))
    except (Unavailable, NoImage) as error:
        raise UserError(f"the shared registry {settings.cache_registry} {error}") from None


def _prune(run: Run, given: tuple[bool, bool, bool, bool]) -> None:
    dry_run, everything, yes, as_json = given
    registry = connection.of(run).share.registry
    there = held(run, registry)
    known = git_states.needed(run, {each for some in there.values() for one in some.values() for each in one.platforms})
    for name, why in known.unread.items():
        print(f"what {name} needs is not known, so its results go by their age: {why}", file=sys.stderr)

    def chosen() -> Pruning:
        found = items(held(run, registry), known, everything)
        return choose(found, run.settings.registry_max_age, sys.maxsize, everything)

    first = chosen()
    text = json.dumps(as_data(first), indent=2) if as_json else summary(run, first, everything)
    if dry_run or not first.gone:
        print(text)
        return
    print(summary(run, first, everything), file=sys.stderr)
    if not yes:
        confirm()
    agreed = {item.key: item for item, _ in first.gone}
    again = [
        (item, freed) for item, freed in chosen().gone if agreed.get(item.key) and item.refs == agreed[item.key].refs
    ]
    for item, _ in again:
        _remove(run, registry, item)
    if as_json:
        print(json.dumps(as_data(Pruning(tuple(again), first.left)), indent=2))
    for key in agreed.keys() - {item.key for item, _ in again}:
        print(f"{agreed[key].name} stays: it was pushed or tagged again meanwhile", file=sys.stderr)
    freed = size_text(sum(size for _, size in again))
    print(f"removed {len(again)} results; the registry's next collection frees about {freed}", file=sys.stderr)


def held(run: Run, registry: Registry) -> dict[str, dict[str, Held]]:
    """What the tags of this project's repositories in the registry name, by repository. Raises ``Unavailable`` and
    ``NoImage``."""
    found = {}
    for path in sorted({path_of(image.ref) for image in run.project.images.values()}):
        tags = [tag for tag in registry.tags(path) if not tag.startswith("sha256-")]  # these are of what is attached
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            named = zip(tags, pool.map(lambda tag, path=path: _held(registry, path, tag), tags), strict=True)
            found[path] = {tag: one for tag, one in named if one}
    return found


def items(there: Mapping[str, Mapping[str, Held]], known: Needed, everything: bool) -> list[Item]:
    """All of that, each with why it stays, if it must."""
    found = []
    for path, named in there.items():
        by_digest: dict[str, list[str]] = defaultdict(list)
        for tag, one in named.items():
            by_digest[one.digest].append(tag)
        for its in by_digest.values():
            found.append(_item(path, named[its[0]], sorted(its), _why(path, its, known, named[its[0]], everything)))
    return found


def _item(path: str, held: Held, tags: Sequence[str], needed: str) -> Item:
    idle = max(0.0, time.time() - held.made)
    name = f"{path}:{tags[0]}{f' and {len(tags) - 1} more tags' if len(tags) > 1 else ''}"
    return Item(f"{path}@{held.digest}", Kind.SHARED, name, held.parts, idle, needed=needed, refs=tuple(tags))


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


def _held(registry: Registry, path: str, reference: str) -> Held | None:
    """What a tag or a digest names; None where it is gone, or is nothing that could be understood."""
    try:
        text = registry.raw_manifest(path, reference)
        manifest = json.loads(text)
        digest = digest_of(text)
        if "manifests" in manifest:
            children = tuple(str(entry["digest"]) for entry in manifest["manifests"])
            inner = [one for child in children if (one := _held(registry, path, child))]
            parts = {part: size for one in inner for part, size in one.parts.items()}
            some = frozenset(platform for one in inner for platform in one.platforms)
            made = max((one.made for one in inner), default=0.0)
            ours = any(one.ours for one in inner)
            return Held(digest, {**parts, digest: len(text)}, children, made, some, ours)
        blobs = [manifest["config"], *manifest["layers"]]
        parts = {str(blob["digest"]): int(blob["size"]) for blob in blobs}
        config = json.loads(registry.small_blob(path, str(manifest["config"]["digest"])))
        made = epoch_seconds(config.get("created"))
        # A cache, and that tests passed, is of none; attestations say that theirs is unknown.
        some = frozenset() if config.get("os") in (None, "unknown") else frozenset([platforms.of(config)])
        ours = FINGERPRINT in translated((config.get("config") or {}).get("Labels") or {})
        return Held(digest, {**parts, digest: len(text)}, (), made if made > _OLDEST else 0.0, some, ours)
    except (NoImage, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _remove(run: Run, registry: Registry, item: Item) -> None:
    """Remove a result with all its tags, what is attached to it, and the images of an index that no other tag needs."""
    path, _, digest = item.key.partition("@")
    attached = [str(each.get("digest")) for each in referrers.attached(registry, path, digest)]
    held = _held(registry, path, digest)
    registry.delete_manifest(path, digest)
    others = {child for tag in registry.tags(path) if (one := _held(registry, path, tag)) for child in one.children}
    for child in held.children if held else ():
        if child not in others:
            registry.delete_manifest(path, child)
    for each in attached:
        registry.delete_manifest(path, each)
    listing = _held_digest(lambda: registry.raw_manifest(path, digest.replace(":", "-")))
    if attached and listing:
        registry.delete_manifest(path, listing)
    connection.of(run).share.gone(path, item.refs)


def _held_digest(read: Callable[[], bytes]) -> str:
    try:
        return digest_of(read())
    except NoImage:
        return ""


def summary(run: Run, chosen: Pruning, everything: bool) -> str:
    """What would be removed, in words: each result by name, the largest first."""
    age = f"{run.settings.registry_max_age / _DAY:.0f} days"
    if not chosen.gone:
        return f"nothing to prune: every result is needed by a branch or a tag, or younger than {age}"
    pairs = sorted(chosen.gone, key=lambda pair: -pair[1])
    lines = [f"{size_text(freed):>8}  {item.idle / _DAY:6.1f} days  {item.name}" for item, freed in pairs[:_SHOWN]]
    lines += [f"and {len(pairs) - _SHOWN} more"] if len(pairs) > _SHOWN else []
    why = "no branch and no tag needs them" + ("" if everything else f", and they are older than {age}")
    lines.append(f"{len(pairs)} results, {size_text(chosen.freed)}, would be removed: {why}")
    return "\n".join(lines)


def as_data(chosen: Pruning) -> dict[str, object]:
    """What goes as plain data."""
    return {
        "freed_bytes": chosen.freed,
        "gone": [
            {"name": item.key, "tags": list(item.refs), "bytes": freed, "age_seconds": round(item.idle)}
            for item, freed in chosen.gone
        ],
    }
