"""What do their registries have now of the images from outside that builds start from?

A tag is asked about first, which is a question without an answer to read (HEAD). Where the engine holds its image from
just that digest nothing moved. Else the image of the platform is looked at: an index may be another, and that image the
same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from doit_images.core.base import platforms
from doit_images.core.base.references import place_of, repository
from doit_images.core.base.timestamps import epoch_seconds
from doit_images.core.engine.client import ImageConfig, normalise
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.reaching import HUB
from doit_images.share.registry import Registry, described
from doit_images.share.share import insecure
from doit_images.share.transport import answered, limited, parsed

if TYPE_CHECKING:
    from doit_images.core.inputs.image_inputs import ImageInputs
    from doit_images.core.run import Run

PINNED = "it is pinned by its digest"
_AT_ONCE = 8
_BILL_SECONDS, _LARGEST_BILL = 30.0, 100_000_000
_SBOM = "https://spdx.dev/Document"
Answer = TypeVar("Answer")
_NONSENSE = (KeyError, TypeError, ValueError, AttributeError)


class Side(NamedTuple):
    """The image of a base that is here, or that its registry has: the digest of its tag ("" where no registry gave it),
    that of the platform's manifest ("" where nobody asked), when it was made, its labels, and what is known of it."""

    digest: str
    manifest: str
    created: float
    labels: Mapping[str, str]
    config: ImageConfig


class Base(NamedTuple):
    """A base, for a platform: what the engine holds and what its registry has; ``why`` it cannot be said what that has;
    why it ``stays`` and nobody was asked."""

    ref: str
    platform: str
    here: Side | None = None
    there: Side | None = None
    why: str = ""
    stays: str = ""

    @property
    def moved(self) -> bool:
        """Whether its registry has another image than the engine, which may hold none."""
        return self.there is not None and (self.here is None or self.here.config.content != self.there.config.content)


class Bases:
    """Asks about the bases of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._registries: dict[str, list[Registry]] = {}
        self._lock = threading.Lock()

    def ask(self, images: Iterable[ImageInputs]) -> list[Base]:
        """Of each base that these images read, for each platform, where it is now. Raises ``UserError`` where the
        engine does not answer, and ``Stopped``."""
        pairs = {(ref, one) for inputs in images for ref, some in inputs.read_for.items() for one in some}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda pair: self._base(*pair), sorted(pairs)))

    def bill(self, ref: str, side: Side | None, platform: str) -> dict[str, Any] | None:
        """The SBOM (SPDX) that BuildKit attested to an image in the registry of a base; None where there is none."""
        if side is None or not side.digest:
            return None
        path = place_of(ref)[1]
        try:
            with limited(_BILL_SECONDS, _LARGEST_BILL):
                return self._first(ref, lambda registry: _attested(registry, path, side.digest, platform))
        except (Unavailable, NoImage):
            return None

    def _base(self, ref: str, platform: str) -> Base:
        own = self._run.own_base
        here = self._here(ref, platform)
        if "@" in ref:
            return Base(ref, platform, here, stays=PINNED)
        if own and own.stands_for([ref]):
            held = own.held(platform)
            if held is None or own.made_here(held[1]):
                return Base(ref, platform, here, stays=f"`{own.task}` makes it here, or brings it")
        host, path, tag = place_of(ref)

        def looked(registry: Registry) -> Side:
            if not (digest := registry.digest(path, tag)):
                raise NoImage(f"has no {path}:{tag}")
            same = here if digest in self._digests(ref, platform) else None
            return same or _there(registry, path, digest, platform)

        try:
            return Base(ref, platform, here, self._first(ref, looked))
        except (Unavailable, NoImage) as error:
            return Base(ref, platform, here, why=f"the registry {host} {error}")

    def _first(self, ref: str, ask: Callable[[Registry], Answer]) -> Answer:
        """What the first registry answers that the engine would take a reference from: mirrors, and then the one that
        the reference names, whose failure counts. Raises ``Unavailable`` and ``NoImage``."""
        *mirrors, registry = self._registries_of(place_of(ref)[0])
        for mirror in mirrors:
            with contextlib.suppress(Unavailable, NoImage), mirror.client.looking():
                return answered(partial(ask, mirror))
        with registry.client.looking():
            return answered(partial(ask, registry))

    def _registries_of(self, host: str) -> list[Registry]:
        with self._lock:
            if host not in self._registries:
                urls = (self._run.engine.info().get("RegistryConfig") or {}).get("Mirrors") if host == HUB else ()
                split = [url.rstrip("/").partition("://") for url in urls or ()]
                plain = {at for kind, _, at in split if kind == "http"}
                mirrors = [Registry(at, insecure=plain.__contains__) for _, _, at in split]
                self._registries[host] = [*mirrors, Registry(host, insecure=insecure)]
            return self._registries[host]

    def _here(self, ref: str, platform: str) -> Side | None:
        found = self._run.local_images.base(ref, platform)
        if found is None:
            return None
        image, config = found[1], self._run.local_images.config_of(found[1])
        return Side(next(self._digests(ref, platform), ""), "", image.created, image.labels, config)

    def _digests(self, ref: str, platform: str) -> Iterator[str]:
        """The digests under which the registry of a base gave the image that the engine holds."""
        local, prefix = self._run.local_images, f"{repository(normalise(ref))}@"
        if found := local.base(ref, platform):
            names = local.snapshot().by_name.items()
            yield from (name.removeprefix(prefix) for name, image in names
                        if image.id == found[1].id and name.startswith(prefix))  # fmt: skip


def _there(registry: Registry, path: str, digest: str, platform: str) -> Side:
    """What a registry has under a digest for a platform. Raises ``Unavailable`` and ``NoImage``."""
    manifest, known_as = _manifest(registry, path, digest, platform)
    try:
        made = parsed(registry.small_blob(path, manifest["config"]["digest"]))
        config, labels = described(made)
    except _NONSENSE:
        raise NoImage("returned something that is not an image") from None
    if not platforms.serves(config.platform, platform):
        raise NoImage(f"has {path} for {config.platform}, and not for {platform}")
    return Side(digest, known_as, epoch_seconds(made.get("created")), labels, config)


def _manifest(registry: Registry, path: str, digest: str, platform: str) -> tuple[dict[str, Any], str]:
    """The manifest of a platform's image, and its digest."""
    manifest = _json(registry, path, digest)
    entries = manifest.get("manifests")
    if entries is None:
        return manifest, digest
    try:
        there = {platforms.of(entry.get("platform") or {}): str(entry["digest"]) for entry in reversed(entries)}
    except _NONSENSE:
        raise NoImage("returned something that is not an image") from None
    if not (chosen := platforms.chosen(there, platform)):
        raise NoImage(f"has {path} for {', '.join(sorted(there))}, and not for {platform}")
    return _json(registry, path, there[chosen]), there[chosen]


def _attested(registry: Registry, path: str, digest: str, platform: str) -> dict[str, Any] | None:
    """The SBOM in the index with this digest
    (https://docs.docker.com/build/metadata/attestations/attestation-storage)."""
    index, (_, known_as) = _json(registry, path, digest), _manifest(registry, path, digest, platform)
    try:
        for entry in index.get("manifests") or ():
            if (entry.get("annotations") or {}).get("vnd.docker.reference.digest") == known_as:
                for layer in _json(registry, path, entry["digest"])["layers"]:
                    if str((layer.get("annotations") or {}).get("in-toto.io/predicate-type")).startswith(_SBOM):
                        return dict(parsed(registry.small_blob(path, layer["digest"]))["predicate"])
    except _NONSENSE:
        pass
    return None


def _json(registry: Registry, path: str, digest: str) -> dict[str, Any]:
    manifest = parsed(registry.raw_manifest(path, digest))
    if not isinstance(manifest, dict):
        raise NoImage("returned something that is not an image")
    return manifest
