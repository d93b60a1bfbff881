"""What does the shared registry hold of a project, and what hangs together there?

A tag names an image, an index of images, BuildKit's cache of a branch, or that tests passed. What is attached to one of
these (signatures, SBOMs) is listed by the registry itself, or by a tag ``sha256-<digest>`` beside it: that scheme also
tells of images that have no other tag any more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from doit_images.ci.results.shared import KIND
from doit_images.core.base import oci, platforms
from doit_images.core.base.references import digest_of
from doit_images.core.base.timestamps import DAY, epoch_seconds
from doit_images.core.engine.labels import FINGERPRINT, translated
from doit_images.share import referrers
from doit_images.share.no_answer import NoImage
from doit_images.share.registry import Registry
from doit_images.share.signing import BUNDLE
from doit_images.share.transport import parsed

_AT_ONCE = 16
_OLDEST = 400 * DAY  # after the epoch: what says that it is older has no time of its own (SOURCE_DATE_EPOCH)
_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(\.\w+)?")  # OCI's tag for a registry without referrers; cosign's of old
_CACHE, _INLINE_CACHE = "application/vnd.buildkit.cacheconfig.v0", "moby.buildkit.cache.v0"


class Held(NamedTuple):
    """What a tag names: a digest, the bytes of all its parts by their digests, its images' manifests where it is an
    index, when it was made in seconds since the epoch, 0 if it does not say, for which platforms, whether it was made
    by these tasks, whether it is or has a cache of BuildKit's, and whether it is attached to something."""

    digest: str
    parts: Mapping[str, int]
    children: tuple[str, ...] = ()
    made: float = 0.0
    platforms: frozenset[str] = frozenset()
    ours: bool = False
    cache: bool = False
    attached: bool = False


class Contents(NamedTuple):
    """What a repository holds: what its tags name; the tags that list what is ``attached`` to a manifest, by its
    digest; and those of these manifests that no tag names, None for one that is not there any more."""

    named: Mapping[str, Held]
    attached: Mapping[str, tuple[str, ...]]
    loose: Mapping[str, Held | None]


class Repository:
    """A repository of the shared registry. Raises as the registry does."""

    def __init__(self, registry: Registry, path: str) -> None:
        self._registry, self._path = registry, path
        self._known: dict[str, Held] = {}  # by digest
        self.there = Contents({}, {}, {})
        """As it was last looked at."""

    def look(self, agreed: Collection[str] = ()) -> None:
        """Find out what it holds; of the digests that are ``agreed`` to go, only whether their tags are still there."""
        tags, about = [], dict[str, tuple[str, ...]]()
        for tag in self._registry.tags(self._path):
            if match := _ABOUT.fullmatch(tag):
                about[f"sha256:{match[1]}"] = (*about.get(f"sha256:{match[1]}", ()), tag)
            else:
                tags.append(tag)
        sure = {tag: held for tag, held in self.there.named.items() if held.digest in agreed}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            named = dict(zip(tags, pool.map(lambda tag: sure.get(tag) or self.held(tag), tags), strict=True))
            found = {tag: held for tag, held in named.items() if held}
            of_tags = {digest for held in found.values() for digest in (held.digest, *held.children)}
            rest = [digest for digest in about if digest not in of_tags]
            asked = [digest for digest in rest if digest not in agreed]
            loose = dict(zip(asked, pool.map(self.held, asked), strict=True))
        loose.update({digest: self.there.loose.get(digest) for digest in rest if digest in agreed})
        counts = {
            digest: held for digest, held in loose.items() if digest in agreed or self._counts(digest, held, about)
        }
        self.there = Contents(found, about, counts)

    def _counts(self, digest: str, held: Held | None, about: Mapping[str, Iterable[str]]) -> bool:
        """Whether something that no tag names is looked at by itself: not what is attached to something, nor what could
        not be understood. What is gone is only where OCI's tag lists for it: cosign's may be of another repository."""
        if held:
            return not held.attached
        try:
            return referrers.tag_of(digest) in about[digest] and not self._registry.raw_manifest(self._path, digest)
        except NoImage:
            return True

    def held(self, reference: str) -> Held | None:
        """What a tag or a digest names; None where it is gone, or is nothing that could be understood."""
        if reference in self._known:
            return self._known[reference]
        try:
            text = self._registry.raw_manifest(self._path, reference)
            digest = digest_of(text)
            if digest not in self._known:
                self._known[digest] = self._described(text)
            return self._known[digest]
        except (NoImage, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None

    def _described(self, text: bytes) -> Held:
        manifest, digest = parsed(text), digest_of(text)
        attached = "subject" in manifest
        if "manifests" in manifest:
            children = tuple(str(entry["digest"]) for entry in manifest["manifests"])
            inner = [one for child in children if (one := self.held(child))]
            parts = {part: size for one in inner for part, size in one.parts.items()}
            some = frozenset(platform for one in inner for platform in one.platforms)
            made, ours = max((one.made for one in inner), default=0.0), any(one.ours for one in inner)
            return Held(digest, {**parts, digest: len(text)}, children, made, some, ours, attached=attached)
        blobs = [manifest["config"], *manifest["layers"]]
        parts = {str(blob["digest"]): int(blob["size"]) for blob in blobs}
        config = parsed(self._registry.small_blob(self._path, str(manifest["config"]["digest"])))
        made = max(map(epoch_seconds, (config.get("created"), *_cached(config))))
        # A cache, and that tests passed, is of none; attestations say that theirs is unknown.
        some = frozenset() if config.get("os") in (None, "unknown") else frozenset([platforms.of(config)])
        cache = manifest["config"].get("mediaType") == _CACHE or _INLINE_CACHE in config
        labels = translated((config.get("config") or {}).get("Labels") or {})
        ours = cache or FINGERPRINT in labels or manifest.get("artifactType") == KIND
        made = made if made > _OLDEST else 0.0
        return Held(digest, {**parts, digest: len(text)}, (), made, some, ours, cache, attached)

    def attached_to(self, digests: Iterable[str]) -> list[str]:
        """The digests of all that is attached to these manifests, and to what is attached to them, and of the lists of
        it, before what they are attached to. Nothing is attached to a signature or to a list, so that saves a
        request."""
        found: dict[str, None] = {}
        todo = list(digests)
        while todo:
            for each, kind in self._attached(todo.pop()):
                if each not in found:
                    found[each] = None
                    todo += [each] if kind not in (BUNDLE, oci.INDEX) else []
        return [*reversed(found)]

    def _attached(self, digest: str) -> Iterator[tuple[str, str]]:
        """The digest and the kind of each."""
        registry, path = self._registry, self._path
        if registry.lists_referrers:
            yield from _kinds(referrers.attached(registry, path, digest))
        for tag in self.there.attached.get(digest, ()):
            try:
                text = registry.raw_manifest(path, tag)
            except NoImage:
                continue  # it is gone
            if tag != referrers.tag_of(digest):
                yield digest_of(text), ""
                continue
            yield from _kinds(referrers.listed(parsed(text)))
            yield digest_of(text), oci.INDEX


def _kinds(entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    digests = [(each.get("digest"), str(each.get("artifactType", ""))) for each in entries]
    return [(digest, kind) for digest, kind in digests if isinstance(digest, str)]


def _cached(config: Mapping[str, Any]) -> Iterator[str]:
    """When the results of a cache were made, as BuildKit writes them (``cache/remotecache/v1/spec.go``)."""
    for record in config.get("records") or ():
        for result in (*(record.get("layers") or ()), *(record.get("chains") or ())):
            yield result.get("createdAt")
