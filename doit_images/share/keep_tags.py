"""What does the shared registry keep because somebody may have deployed it by its digest?

A digest alone protects nothing: the tag of a fingerprint goes when no branch needs it any more, or names another image
after a rebuild on purpose, and registries remove what has no tag. So a lock leaves a tag of its own on each of its
images: ``keep-<day>-<digits of what was locked>``. It is an ordinary tag, so whoever cleans a registry knows what it
means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from doit_images.core.base import oci
from doit_images.core.base.references import digest_of
from doit_images.core.base.timestamps import utc
from doit_images.share import referrers

if TYPE_CHECKING:
    from doit_images.share.registry import Registry

_KEEP = "keep-"
_DIGITS = 12


def lock_of(references: Iterable[str], seconds: float) -> str:
    """What a lock of these images is called that was made at this time: the same ones on the same day are one lock.

    >>> lock_of(["b@sha256:2", "a@sha256:1"], 1795505378) == lock_of(["a@sha256:1", "b@sha256:2"], 1795505379)
    True
    >>> lock_of(["a@sha256:1"], 1795505378)
    '2026-11-24-6ee2abffb464'
    """
    number = digest_of("\n".join(sorted(references)).encode()).partition(":")[2]
    return f"{utc(seconds)[:10]}-{number[:_DIGITS]}"


def keep(registry: Registry, path: str, digest: str, lock: str) -> None:
    """Let the image with this digest have the tag of a lock. Raises ``Unavailable`` and ``NoImage``."""
    text = registry.raw_manifest(path, digest)
    manifest = json.loads(text)
    media = oci.media_type_of(manifest)
    registry.give_manifest(path, f"{_KEEP}{lock}", media, text)


def kept(registry: Registry, path: str) -> dict[str, str]:
    """The digests that a repository keeps, by lock. Raises ``Unavailable`` and ``NoImage``."""
    tags = sorted(tag for tag in registry.tags(path) if tag.startswith(_KEEP))
    return {tag.removeprefix(_KEEP): digest_of(registry.raw_manifest(path, tag)) for tag in tags}


def release(registry: Registry, path: str, lock: str) -> None:
    """Let a repository have no such lock any more, and all else as it is. Raises ``Unavailable``."""
    remove(registry, path, f"{_KEEP}{lock}")


def remove(registry: Registry, path: str, tag: str) -> None:
    """Let a repository have no such tag any more, and all else as it is. Raises ``Unavailable``.

    Few registries let a tag alone be deleted, and some then delete what it names. So the tag is moved to a manifest of
    nothing, which goes with all of its tags; a registry that deletes nothing keeps that."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": referrers.give_blob(registry, path, referrers.EMPTY, b"{}"),
        "layers": [],
        "annotations": {"doit-images.released": tag},
    }
    text = json.dumps(manifest).encode()
    registry.give_manifest(path, tag, oci.MANIFEST, text)
    registry.delete_manifest(path, digest_of(text))
