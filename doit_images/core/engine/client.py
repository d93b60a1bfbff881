"""What does the Docker engine hold?

The engine is the database: which image is fresh is read from its tags and labels, so a lost state file
can never mislead. One listing answers for all images. ``engine.api`` asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from doit_images.core.base import platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import KEPT, familiar, kind_of, repository, tag_of
from doit_images.core.base.timestamps import epoch_seconds
from doit_images.core.engine.api import LONG_SECONDS, Api, NotFound
from doit_images.core.engine.endpoint import endpoint
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, OURS, translated

_VERSION, _IMAGES = "/version", "/images/json"
_TOGETHER, _ENOUGH = 50, 10  # records in one request to remove them, and characters of each one's id
_AGAIN_SECONDS = (0.05, 0.2, 0.8)
_INIT = {"/sbin/docker-init", "/usr/sbin/docker-init"}  # where `init: true` mounts one; /sbin is a link in some images
# Instructions that change an image's configuration only (WORKDIR makes a layer).
_WITHOUT_LAYER = {
    "ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "SHELL",
    "STOPSIGNAL", "USER", "VOLUME",
}  # fmt: skip


class LocalImage(NamedTuple):
    """An image that the engine holds: its id, the names it goes by, its labels, bytes, and when it was made (seconds
    since the epoch). ``fixed`` is whether that id can never mean another image. In containerd's store it may be
    the id of an index, and the engine then shows whichever platform it holds."""

    id: str
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    size: int = 0
    created: float = 0.0
    fixed: bool = True

    def own_tag(self, ref: str) -> str:
        """The name in the repository of this reference by which the image is kept: that of the fingerprint in its own
        label; "" if it has none."""
        name = tag_of(ref, self.labels.get(FINGERPRINT, ""))
        return name if kind_of(name.rpartition(":")[2]) == KEPT else ""

    @property
    def proofs(self) -> frozenset[str]:
        """The repositories in which one of its names proves that a build of these tasks ended well with this image.

        Whatever is made from an image of ours inherits its labels, and anybody may call an image ``in-progress``. So a
        name proves something only if it is the one that the image's own fingerprint gives it.
        """
        return frozenset(repository(name) for name in self.tags if name == self.own_tag(name))


class CacheRecord(NamedTuple):
    """One record of a BuildKit's cache: its id and the ids of those that it lies on, its bytes, when it was last used
    (seconds since the epoch) and how often, whether something uses it now, whether an image holds the same bytes, and
    when it was made."""

    id: str
    parents: tuple[str, ...]
    what: str
    size: int
    used: float
    uses: int
    busy: bool = False
    shared: bool = False
    made: float = 0.0


class ImageConfig(NamedTuple):
    """What is known of an image id: its content, platform (normal form), environment and ONBUILD triggers.

    ``content`` is a digest of the layers and the configuration without our own labels and without times:
    two images with the same content are the same for everything that builds on them.
    """

    content: str
    platform: str
    env: Mapping[str, str] = {}
    onbuild: tuple[str, ...] = ()


class Snapshot(NamedTuple):
    """All images of the engine at one moment, by every normalised name that they go by, and by the digest of the inputs
    that our label says they were made from; its platform and version."""

    by_name: Mapping[str, LocalImage]
    platform: str
    by_input_digest: Mapping[str, tuple[LocalImage, ...]] = {}
    version: str = ""

    def every(self) -> Iterator[LocalImage]:
        """All images that have a name or carry our label; some more than once."""
        yield from self.by_name.values()
        for some in self.by_input_digest.values():
            yield from some

    def get(self, ref: str) -> LocalImage | None:
        """The image that the engine holds under this reference, if any."""
        return self.by_name.get(normalise(ref))

    def with_names(self, image_id: str, refs: Iterable[str]) -> Snapshot | None:
        """What the engine holds once this image has these names, which others then lose; None if it is not here."""
        named = dict.fromkeys(map(normalise, refs))

        def after(image: LocalImage) -> LocalImage:
            tags = tuple(tag for tag in image.tags if normalise(tag) not in named)
            return image._replace(tags=(*tags, *named) if image.id == image_id else tags)

        images = {id(image): after(image) for image in self.every()}
        mine = next((image for image in images.values() if image.id == image_id), None)
        if mine is None:
            return None
        by_name = {name: images[id(image)] for name, image in self.by_name.items()} | dict.fromkeys(named, mine)
        by_input_digest = {
            digest: tuple(images[id(image)] for image in some) for digest, some in self.by_input_digest.items()
        }
        return self._replace(by_name=by_name, by_input_digest=by_input_digest)


@cache
def normalise(ref: str) -> str:
    """An image reference as the engine lists it: without Docker Hub's default parts, with a tag or a digest.

    >>> normalise("docker.io/library/python")
    'python:latest'
    >>> normalise("python:3.13@sha256:00")
    'python@sha256:00'
    """
    name, _, digest = familiar(ref).partition("@")
    last = name.rsplit("/", 1)[-1]
    if digest:
        return f"{name[: len(name) - len(last)]}{last.split(':')[0]}@{digest}"
    return name if ":" in last else f"{name}:latest"


def host_platform() -> str:
    """This machine's platform in its normal form, such as ``linux/amd64``."""
    return platforms.normalise(os.uname().machine)


class Gone(UserError):
    """The engine does not hold an image any more that it listed before."""


class Engine:
    """The engine at ``address`` (default: the one that the docker command would talk to). Every method raises
    ``UserError`` when the engine does not answer."""

    def __init__(self, address: str = "") -> None:
        self.address = address or endpoint()
        self._api = Api(self.address)
        self._call = self._api.call
        self.forget, self.hangs = self._api.forget, self._api.hangs
        self._platform = self._version = ""

    def ask(self) -> None:
        """Send ahead what ``snapshot`` will ask: a local engine finds the answer while this process reads files."""
        self._api.ask(_VERSION, _IMAGES)

    def snapshot(self) -> Snapshot:
        """List the images and the platform of the engine: one request each, however many images there are. Raises
        ``UserError`` where it is not Docker's."""
        if not self._platform:
            version = self._call("GET", _VERSION)
            if any(one.get("Name") == "Podman Engine" for one in version.get("Components") or ()):
                raise UserError(
                    f"what answers at {self.address} is Podman, which has no BuildKit to build with",
                    remedy="set DOCKER_HOST to an engine of Docker's, which may be rootless",
                )
            self._platform = platforms.normalise(f"{version['Os']}/{version['Arch']}")
            self._version = version.get("Version") or ""
        # containerd's store fails to list images in the moment in which one of them is removed.
        listed = self._repeated("GET", _IMAGES, "content digest")
        return snapshot_of(listed, self._platform)._replace(version=self._version)

    def _repeated(self, method: str, path: str, moment: str) -> Any:
        """The engine's answer, asked for again while it refuses with the words that only another's request at the same
        moment explains."""
        for seconds in _AGAIN_SECONDS:
            try:
                return self._call(method, path)
            except UserError as error:
                if moment not in str(error):
                    raise
                time.sleep(seconds)
        return self._call(method, path)

    def config_of(self, image_id: str) -> ImageConfig:
        """What is known of an image that the engine holds."""
        return image_config(self._call("GET", f"/images/{quote(image_id, safe=':')}/json"))

    def tagged(self, ref: str) -> str:
        """When the image that goes by this reference last got a name, in the engine's words; "" if there is none."""
        try:
            inspected = self._call("GET", f"/images/{quote(ref, safe=':/@')}/json")
        except NotFound:
            return ""
        return f"{inspected['Id']} {(inspected.get('Metadata') or {}).get('LastTagTime') or ''}"

    def layers(self, image_id: str) -> tuple[tuple[str, int], ...]:
        """The image's layers from the base up: the digest of each one's uncompressed content, and its bytes."""
        digests = self._call("GET", f"/images/{quote(image_id, safe=':')}/json")["RootFS"].get("Layers") or []
        try:
            made = [entry for entry in reversed(self._history(image_id)) if _makes_layer(entry)]
        except UserError as error:
            if "snapshot" not in str(error):
                raise
            made = []  # containerd's store unpacks no image of another platform, and knows no history of one
        if len(made) != len(digests):  # an imported or squashed image tells its history in another way
            made = [{"Size": 0}] * len(digests)
        return tuple((digest, int(entry["Size"])) for digest, entry in zip(digests, made, strict=True))

    def steps(self, image_id: str) -> tuple[tuple[str, float], ...]:
        """The steps that the image says it was made by, and when each was (seconds since the epoch, whole ones)."""
        made = self._history(image_id)
        return tuple((entry["CreatedBy"].removesuffix(" # buildkit"), float(entry["Created"])) for entry in made)

    def _history(self, image_id: str) -> list[dict[str, Any]]:
        """How the image came to be, the last step first. containerd's store says null of one without any."""
        return self._call("GET", f"/images/{quote(image_id, safe=':')}/history") or []

    def tag(self, image_id: str, ref: str) -> None:
        """Let the reference name this image; ``Gone`` if it is not here. containerd's store replaces a name in two
        steps, between which somebody else may set it."""
        name = normalise(ref)
        repo, _, tag = name.rpartition(":")
        query = urlencode({"repo": repo, "tag": tag})
        try:
            self._repeated("POST", f"/images/{quote(image_id, safe=':')}/tag?{query}", "already exists")
        except NotFound:
            raise Gone(f"the engine holds no image {image_id} any more") from None

    def untag(self, ref: str) -> None:
        """Take this name away, if somebody else has not; the image itself goes only if it has no other name and nothing
        uses it."""
        with contextlib.suppress(NotFound):
            self._call("DELETE", f"/images/{quote(ref, safe=':/@')}?noprune=1")

    def remove(self, image_id: str) -> None:
        """Remove an image that has no name, or the engine says why not."""
        self._call("DELETE", f"/images/{quote(image_id, safe=':')}?noprune=1")

    def users(self) -> dict[str, tuple[str, ...]]:
        """Which containers, running or not, were made from which image id."""
        users: dict[str, tuple[str, ...]] = {}
        for container in self._call("GET", "/containers/json?all=1"):
            name = (container.get("Names") or [container["Id"][:12]])[0].lstrip("/")
            users[container["ImageID"]] = (*users.get(container["ImageID"], ()), name)
        return users

    def image_mounts(self) -> list[tuple[str, str, float]]:
        """Which containers, running or not, mount which image, by the name that it then had, and when they were made.
        What that name meant the engine does not say."""
        return [
            ((container.get("Names") or [container["Id"][:12]])[0].lstrip("/"), mount["Name"], container["Created"])
            for container in self._call("GET", "/containers/json?all=1")
            for mount in container.get("Mounts") or ()
            if mount["Type"] == "image"
        ]

    def changes(self, container_id: str) -> tuple[list[Mapping[str, Any]], set[str]]:
        """What a container has in a layer of its own, as the engine lists it, with ``Path`` and ``Kind`` (0 changed, 1
        added, 2 deleted); and where something is mounted in it."""
        inspected = self._call("GET", f"/containers/{container_id}/json")
        mounted = {mount["Destination"] for mount in inspected.get("Mounts") or ()}
        config = inspected.get("HostConfig") or {}
        mounted |= (config.get("Tmpfs") or {}).keys()
        mounted |= _INIT if config.get("Init") else set()
        return self._call("GET", f"/containers/{container_id}/changes") or [], mounted

    def build_cache(self) -> tuple[CacheRecord, ...]:
        """The records of the cache of the engine's own BuildKit."""
        return tuple(map(_cache_record, self._on_disk("build-cache", "BuildCache", "BuildCacheUsage")))

    def volume_bytes(self) -> dict[str, int]:
        """How much each volume holds, by name; 0 where the engine does not know."""
        listed = self._on_disk("volume", "Volumes", "VolumeUsage")
        return {each["Name"]: max(0, int((each.get("UsageData") or {}).get("Size") or 0)) for each in listed}

    def _on_disk(self, kind: str, key: str, later: str) -> list[dict[str, Any]]:
        """What the engine says of each thing of a kind; under ``later`` from API 1.52 on."""
        answer = self._call("GET", f"/system/df?type={kind}&verbose=1", LONG_SECONDS)
        return answer.get(key) or (answer.get(later) or {}).get("Items") or []

    def prune_build_cache(self, ids: Sequence[str]) -> None:
        """Remove these records of the build cache and no other, those that lie on others first; what is busy stays."""
        for group in in_groups(ids):
            # The engine takes one value, which BuildKit reads as a regular expression in quotes.
            filters = quote(json.dumps({"id": [f'"{one_of(group)}"']}))
            self._call("POST", f"/build/prune?all=1&filters={filters}", LONG_SECONDS)

    def uses_containerd_store(self) -> bool:
        """Whether images live in containerd's store, which can export caches, instead of the classic one."""
        status = self.info().get("DriverStatus") or []
        return any("containerd" in str(value) for _, value in status)

    def info(self) -> Mapping[str, Any]:
        """What the engine says of itself and how it is set up."""
        return dict(self._call("GET", "/info"))


def in_groups(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Records of a build cache, as many together as are removed fastest: of 1,050 records 50 took 3 to 6 s, 400 a
    minute, for BuildKit goes through all of them again and again, and reads the expression anew for each."""
    return (ids[begin : begin + _TOGETHER] for begin in range(0, len(ids), _TOGETHER))


def one_of(ids: Iterable[str]) -> str:
    """An expression for these records and no other. Ids are 25 random characters (``identity.NewID``), of which ten are
    enough, and read in less than half of the time.

    >>> one_of(["x1", "0123456789abcdefghijklmno"])
    '^(x1$|0123456789)'
    """
    return f"^({'|'.join(each[:_ENOUGH] if len(each) > _ENOUGH else f'{each}$' for each in ids)})"


def image_config(inspected: Mapping[str, Any]) -> ImageConfig:
    """What is known from the engine's answer to ``docker image inspect``."""
    config = {key: value for key, value in (inspected.get("Config") or {}).items() if value}
    labels = {key: value for key, value in (config.pop("Labels", None) or {}).items() if not key.startswith(OURS)}
    for transient in ("Hostname", "Domainname", "Image", "AttachStdin", "AttachStdout", "AttachStderr"):
        config.pop(transient, None)
    variant = inspected.get("Variant") or ""
    system = "/".join(part for part in (inspected.get("Os"), inspected.get("Architecture"), variant) if part)
    # Both stand outside of its configuration, and children inherit them: MAINTAINER, and the version of Windows.
    beside = {key: inspected[key] for key in ("Author", "OsVersion") if inspected.get(key)}
    whole = [inspected.get("RootFS", {}).get("Layers"), config, labels, system, *([beside] if beside else [])]
    env = dict(entry.split("=", 1) for entry in config.get("Env") or () if "=" in entry)
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return ImageConfig(f"sha256:{digest}", platforms.normalise(system), env, tuple(config.get("OnBuild") or ()))


def snapshot_of(listed: list[dict[str, Any]], platform: str) -> Snapshot:
    """The snapshot in the engine's answer to ``GET /images/json``."""
    by_name: dict[str, LocalImage] = {}
    by_input_digest: dict[str, tuple[LocalImage, ...]] = {}
    for entry in listed:
        tags = tuple(tag for tag in entry.get("RepoTags") or () if tag != "<none>:<none>")
        digests = tuple(digest for digest in entry.get("RepoDigests") or () if not digest.startswith("<none>"))
        size, created = entry.get("Size") or 0, entry.get("Created") or 0
        labels = translated(entry.get("Labels") or {})
        local_image = LocalImage(entry["Id"], tags, labels, size, created, _fixed(entry))
        for name in (*tags, *digests):
            by_name[normalise(name)] = local_image
        if (digest := labels.get(INPUT_DIGEST)) is not None:
            by_input_digest[digest] = (*by_input_digest.get(digest, ()), local_image)
    return Snapshot(by_name, platform, by_input_digest)


def _fixed(listed: Mapping[str, Any]) -> bool:
    """Whether the id of a listed image can never mean another one. That of the classic store is its configuration's;
    containerd's store has no other digest for an image than its id, which newer engines say what it is of."""
    if not any(digest.endswith(f"@{listed['Id']}") for digest in listed.get("RepoDigests") or ()):
        return not listed.get("Descriptor")
    return re.search(r"manifest\.v\d", (listed.get("Descriptor") or {}).get("mediaType", "")) is not None


def _cache_record(listed: Mapping[str, Any]) -> CacheRecord:
    # Engines up to 26 write a blank before this key.
    parents = listed.get("Parents") or listed.get(" Parents") or ([listed["Parent"]] if listed.get("Parent") else [])
    return CacheRecord(
        id=listed["ID"],
        parents=tuple(parents),
        what=" ".join((listed.get("Description") or listed.get("Type") or "").split()),
        size=int(listed.get("Size") or 0),
        used=epoch_seconds(listed.get("LastUsedAt")) or epoch_seconds(listed.get("CreatedAt")),
        uses=int(listed.get("UsageCount") or 0),
        busy=bool(listed.get("InUse")),
        shared=bool(listed.get("Shared")),
        made=epoch_seconds(listed.get("CreatedAt")),
    )


def _makes_layer(entry: Mapping[str, Any]) -> bool:
    """Whether a line of ``docker history`` stands for a layer: the API does not say, so from what made it."""
    made_by = entry.get("CreatedBy") or ""
    words = made_by.removeprefix("/bin/sh -c #(nop) ").split()
    return not words or words[0] not in _WITHOUT_LAYER
