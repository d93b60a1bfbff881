"""``doit registry_prune``: which shared results does nobody need any more?

A result goes that no branch, no tag and no commit of late of the repository needs (``git_states``), nor this working
tree, and that was last needed longer ago than REGISTRY_MAX_AGE: other machines may work on something that git does not
know yet. That tests passed, and the cache of a branch that is not there any more, go by their age alone. What has any
other tag stays. What is gone too early costs one build, or one run of the tests.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from doit_images.core.base import checked_json
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.references import KEPT, TESTED, kind_of, path_of
from doit_images.core.base.settings import Settings
from doit_images.core.base.timestamps import DAY
from doit_images.core.run import Run
from doit_images.pruning import git_states
from doit_images.pruning.git_states import Needed
from doit_images.pruning.prune import ANY_AGE, Item, ItemKind, Pruning, choose, listed
from doit_images.pruning.registry_contents import Contents, Held, Repository
from doit_images.share import connection
from doit_images.share.no_answer import NoImage, Unavailable

_CACHE = "cache-"  # how the tags of BuildKit's caches begin (``backends.cache_tag``)


class _Results:
    """The shared results of this project as they were last looked at, with those that somebody needs; also those in
    further repositories. Raises as the registry and ``git_states`` do."""

    def __init__(self, run: Run, max_age: float, further: Iterable[str] = ()) -> None:
        self._share, self._max_age = connection.of(run).share, max_age
        self._registry = self._share.registry
        self._last = _LastNeeded(run.folder / "last-needed.json")
        self._repositories: dict[str, Repository] = {}
        self.needed = Needed()
        paths = {*further, *(path_of(image.ref) for image in run.project.images.values())}
        asked: frozenset[str] | None = None
        while paths:  # commits may know of more repositories, and these of more platforms
            self._look(paths)
            there = [held for one in self._repositories.values() for held in one.there.named.values()]
            platforms = frozenset(platform for held in there for platform in held.platforms)
            if platforms != asked:
                asked, self.needed = platforms, git_states.needed(run, platforms, max(0.0, max_age))
            paths = self.needed.paths - self._repositories.keys()

    def chosen(self) -> Pruning:
        """Those that go."""
        there = {path: one.there for path, one in self._repositories.items()}
        found = self._last.heeded(items(there, self.needed))
        return choose(found, self._max_age, sys.maxsize)

    def chosen_again(self, agreed: Mapping[str, Item]) -> list[tuple[Item, int]]:
        """Those of ``agreed`` that have no other tags and are not needed by now, with the bytes that each frees."""
        self._look(self._repositories, agreed)
        gone = self.chosen().gone
        return [(item, freed) for item, freed in gone if item.key in agreed and item.refs == agreed[item.key].refs]

    def _look(self, paths: Iterable[str], agreed: Collection[str] = ()) -> None:
        """Find out what all tags name; of what is ``agreed`` to go, only whether it is still there."""
        for path in sorted(paths):
            one = self._repositories.setdefault(path, Repository(self._registry, path))
            one.look({key.partition("@")[2] for key in agreed if key.startswith(f"{path}@")})

    def remove(self, gone: Iterable[Item]) -> None:
        """Remove these with all their tags, what is attached to them, and the images of an index that no other tag
        needs. What is attached goes first: nobody would find it later."""
        by_path: dict[str, dict[str, Item]] = defaultdict(dict)
        for item in gone:
            path, _, digest = item.key.partition("@")
            by_path[path][digest] = item
        for path, going in by_path.items():
            one = self._repositories[path]
            there = (*one.there.named.values(), *filter(None, one.there.loose.values()))
            stay = [held for held in there if held.digest not in going]
            stays = {digest for held in stay for digest in (held.digest, *held.children)}
            for digest, item in going.items():
                held = one.held(digest)
                children = [child for child in (held.children if held else ()) if child not in stays]
                attached = [each for each in one.attached_to((digest, *children)) if each not in stays]
                for each in dict.fromkeys((*attached, digest, *children)):
                    self._registry.delete_manifest(path, each)
                self._share.gone(path, item.refs)


class _LastNeeded:
    """When results were last needed, as earlier runs on this machine saw, in a ``file`` that may be lost: what does not
    say when it was made counts from when it was first seen."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def heeded(self, found: Sequence[Item]) -> list[Item]:
        """The same, none idle for longer than since it was last needed."""
        now, content = time.time(), checked_json.recall(self._file) or {}
        known = {key: at for key, at in content.items() if isinstance(at, int | float)}
        seconds, heeded = {}, []
        for item in found:
            undated = item.idle == math.inf
            at = now if item.needed or (undated and item.key not in known) else known.get(item.key)
            if at is not None:
                seconds[item.key] = at
                item = replace(item, idle=max(0.0, min(item.idle, now - at)))
            heeded.append(item)
        checked_json.remember(self._file, seconds)
        return heeded


def prune(run: Run, words: Sequence[str], *, dry_run: bool, everything: bool, yes: bool, as_json: bool) -> None:
    """Remove the shared results of this project that nobody needs; with ``everything`` however new they are. ``words``
    are further repositories to look at, of images that the project does not have any more.

    What would be removed is printed first: for ``dry_run`` to standard output, and that is all; else to standard error,
    and then it is asked about. ``UserError`` without agreement, and where the registry does not answer or deletes
    nothing. Of that, what has other tags or is needed by then stays. A tag costs three requests at most; each
    platform of an index two more; each result that goes one more where the registry itself lists what is attached, and
    two for each attachment."""
    settings = run.settings
    if not settings.cache_registry:
        raise UserError("CACHE_REGISTRY is not set, so there is nothing to prune")
    if not (dry_run or settings.cache_write):
        raise UserError("CACHE_WRITE is off on this machine", remedy="--dry-run shows what would go")
    try:
        max_age = ANY_AGE if everything else settings.registry_max_age
        results = _Results(run, max_age, words)
        first = results.chosen()
        for name, why in results.needed.unread.items():
            print(f"what {name} needs is not known, so its results go by their age: {why}", file=sys.stderr)
        text = summary(settings, first, max_age)
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


def items(there: Mapping[str, Contents], known: Needed) -> list[Item]:
    """All of that, each with why it stays, if it must; idle for ever where it does not say when it was made."""
    found, named = [], {held.digest for contents in there.values() for held in contents.named.values()}
    for path, contents in there.items():
        by_digest: dict[str, list[str]] = defaultdict(list)
        for tag, one in contents.named.items():
            by_digest[one.digest].append(tag)
        for tags in map(sorted, by_digest.values()):
            more = f" and {len(tags) - 1} more tags" if len(tags) > 1 else ""
            found.append(_item(path, tags, f"{path}:{tags[0]}{more}", contents.named[tags[0]], known))
        for digest, held in contents.loose.items():
            name = f"{path}@{digest[:19]}"
            if held:
                found.append(_item(path, (), f"{name}, which has no tag any more", held, known))
            elif digest not in named:  # in any repository
                what = f"what is attached to {name}, which is gone"
                found.append(Item(f"{path}@{digest}", ItemKind.SHARED, what, idle=time.time()))
    return found


def _item(path: str, tags: Sequence[str], name: str, one: Held, known: Needed) -> Item:
    idle, key = max(0.0, time.time() - one.made) if one.made else math.inf, f"{path}@{one.digest}"
    return Item(key, ItemKind.SHARED, name, one.parts, idle, needed=_why(path, tags, known, one), refs=tuple(tags))


def _why(path: str, tags: Sequence[str], known: Needed, one: Held) -> str:
    """Why something stays that these tags name, "" if nothing says so."""
    caches = [tag for tag in tags if tag.startswith(_CACHE) and one.cache]
    for tag in tags:
        if tag not in caches and not kind_of(tag):
            return f"it is tagged {tag}"
        if why := known.caches.get(tag) or known.results.get((path, tag)):
            return why
    results = [tag for tag in tags if kind_of(tag) == KEPT]
    if not one.ours and not all(kind_of(tag) == TESTED for tag in tags or ("",)):
        return "it was not built by these tasks"
    for platform in one.platforms if results else ():
        if doubt := known.unknown.get((path, platform)):
            return doubt
    return ""


def summary(settings: Settings, chosen: Pruning, max_age: float) -> str:
    """What would be removed, in words: each result by name, the largest first."""
    age = f"{settings.registry_max_age / DAY:.0f} days"
    if not chosen.gone:
        return f"nothing to prune: every result is needed by a branch or a tag, or was in the last {age}"
    why = "no branch and no tag needs them" + ("" if max_age == ANY_AGE else f", and nobody did in the last {age}")
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
