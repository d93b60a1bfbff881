"""How does an image get into a registry, or from there, past the engine?

The engine's classic store holds one platform, so it can neither push nor pull the others: what the layout of an image
holds is pushed from there, blob by blob, and what a registry holds is fetched into it. Blobs that are there already are
not sent again; each one that comes is checked against its digest before it counts. What a builder has pushed by its
digest only needs a name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.base import oci
from doit_images.core.base.files import write_json
from doit_images.core.base.references import digest_of
from doit_images.core.buildkit.oci_transfer import blob_of, index_of
from doit_images.share.no_answer import NoImage
from doit_images.share.registry import Registry


class Whole(NamedTuple):
    """An image that the engine does not give: the digest of its manifest or index, its content (as
    ``engine.ImageConfig``), and the layout that holds it; without one the registry does, by that digest."""

    digest: str
    content: str
    layout: Path | None = None


def push(registry: Registry, path: str, tags: Iterable[str], whole: Whole) -> None:
    """Let the repository ``path`` have an image under these tags. Raises ``Unavailable``, ``Stopped``, and ``NoImage``
    where the layout is damaged, or the registry has lost it."""
    if whole.layout:
        text = _index_pushed(registry, path, whole.layout, whole.digest)
    else:
        text = registry.raw_manifest(path, whole.digest)
    media = oci.media_type_of(json.loads(text))
    for tag in tags:
        registry.give_manifest(path, tag, media, text)


def _index_pushed(registry: Registry, path: str, layout: Path, digest: str) -> bytes:
    """Push all that an index of a layout names; the index."""
    try:
        text = blob_of(layout, digest).read_bytes()
        for entry in json.loads(text)["manifests"]:
            manifest = blob_of(layout, entry["digest"]).read_bytes()
            content = json.loads(manifest)
            for blob in _blobs(content):
                registry.give_blob(path, blob, blob_of(layout, blob))
            registry.give_manifest(path, entry["digest"], oci.media_type_of(content), manifest)
        return text
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoImage(f"cannot be given what {layout} should hold ({type(error).__name__})") from None


def joined(registry: Registry, path: str, parts: Mapping[str, str]) -> str:
    """Let the repository ``path`` hold images that it has by their digests, one for each platform, as one index; its
    digest. Raises ``Unavailable``, and ``NoImage`` where one of them is not there."""
    text = index_for(registry, path, parts)
    registry.give_manifest(path, digest_of(text), oci.INDEX, text)
    return digest_of(text)


def index_for(registry: Registry, path: str, parts: Mapping[str, str]) -> bytes:
    """The index that these would be, always the same. Raises as ``joined``."""
    manifests = {}
    for platform, digest in sorted(parts.items()):
        image = registry.image(path, digest, platform)
        if image is None or image.platform != platform:
            raise NoImage(f"does not hold the image for {platform}")
        manifests[platform] = registry.raw_manifest(path, image.digest)
    return index_of(manifests)


def fetch(registry: Registry, path: str, digest: str, layout: Path) -> None:
    """Let a layout hold the index with this digest of the repository ``path``, in place of what it held. Raises
    ``Unavailable``, ``Stopped``, and ``NoImage`` where the registry does not hold it whole."""
    folder = layout / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    (layout / "ingest").mkdir(exist_ok=True)
    text = registry.raw_manifest(path, digest)
    try:
        index = json.loads(text)
        for entry in index["manifests"]:
            manifest = registry.raw_manifest(path, entry["digest"])
            for blob, size in _blobs(json.loads(manifest)).items():
                if not blob_of(layout, blob).is_file():
                    registry.take_blob(path, blob, blob_of(layout, blob), size)
            _write(blob_of(layout, entry["digest"]), manifest)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise NoImage("returned something that is not an image") from None
    _write(blob_of(layout, digest), text)
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    entry = {"mediaType": oci.media_type_of(index), "digest": digest, "size": len(text)}
    # BuildKit puts its next result in the place of what has this name.
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    write_json(layout / "index.json", {"schemaVersion": 2, "manifests": [entry]})


def _blobs(manifest: dict[str, Any]) -> dict[str, int]:
    """The blobs of a manifest, each once, with their sizes."""
    return {str(each["digest"]): int(each["size"]) for each in (manifest["config"], *manifest["layers"])}


def _write(path: Path, data: bytes) -> None:
    """A blob appears whole or not at all: its name promises what it holds."""
    if digest_of(data) != f"sha256:{path.name}":
        raise NoImage("returned a manifest with the wrong digest")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
