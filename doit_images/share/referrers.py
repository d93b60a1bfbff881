"""What is attached to an image in a registry, and how is something attached to it?

OCI's referrers (distribution-spec 1.1): a manifest that names the image's as its ``subject``, so that the image and its
digest stay as they are. A registry that does not know of referrers is told by a tag, ``sha256-<digest>``, which lists
them: the scheme that the specification gives for those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from doit_images.core.base.oci import INDEX, MANIFEST, media_type_of
from doit_images.core.base.references import digest_of

if TYPE_CHECKING:
    from doit_images.share.registry import Registry

EMPTY = "application/vnd.oci.empty.v1+json"
_TRIES = 5  # to be on a list that others write too


class Attachment(NamedTuple):
    """What to attach: what kind it is, by its media type, its bytes, and annotations for whoever lists it."""

    kind: str
    content: bytes
    annotations: Mapping[str, str]


def attach(registry: Registry, path: str, digest: str, attachment: Attachment) -> str:
    """Attach something to the manifest with this digest of a repository; the digest of what was attached. Raises
    ``Unavailable`` and ``NoImage``."""
    subject = registry.raw_manifest(path, digest)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": attachment.kind,
        "config": give_blob(registry, path, EMPTY, b"{}"),
        "layers": [give_blob(registry, path, attachment.kind, attachment.content)],
        "subject": {"mediaType": media_type_of(json.loads(subject)), "digest": digest, "size": len(subject)},
        "annotations": dict(attachment.annotations),
    }
    return give(registry, path, json.dumps(manifest, sort_keys=True).encode())


def give(registry: Registry, path: str, text: bytes) -> str:
    """Let a repository hold the manifest of something attached, whose parts it has, and list it; its digest. Raises as
    ``attach``."""
    manifest = json.loads(text)
    own, digest, kind = descriptor(MANIFEST, text), manifest["subject"]["digest"], manifest.get("artifactType", "")
    says_so = registry.give_manifest(path, own["digest"], MANIFEST, text)
    # Some say that they list it, and do not.
    there = listed(_by_itself(registry, path, digest, kind)) if says_so else []
    if own["digest"] not in [each.get("digest") for each in there]:
        notes = manifest.get("annotations") or {}
        _list(registry, path, digest, own | {"artifactType": kind, "annotations": notes})
    return str(own["digest"])


def _by_itself(registry: Registry, path: str, digest: str, kind: str) -> dict[str, Any] | None:
    """What a registry itself lists as attached, of one kind where one is named; None where it lists nothing itself."""
    of_kind = f"?{urlencode({'artifactType': kind})}" if kind else ""  # which a registry may heed or not
    return registry.listing(path, f"referrers/{digest}{of_kind}", INDEX)


def _list(registry: Registry, path: str, digest: str, entry: Mapping[str, object]) -> None:
    """Add something to the list that a tag holds. It is looked at again afterwards: another machine may have written
    its own in the same moment."""
    for _ in range(_TRIES):
        there = attached(registry, path, digest)
        if any(each.get("digest") == entry["digest"] for each in there):
            return
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*there, entry]}
        registry.give_manifest(path, tag_of(digest), INDEX, json.dumps(index, sort_keys=True).encode())


def attached(registry: Registry, path: str, digest: str, kind: str = "") -> list[dict[str, Any]]:
    """The descriptors of all that is attached to a manifest, or of what is of this kind. Raises ``Unavailable`` and
    ``NoImage``."""
    index = _by_itself(registry, path, digest, kind) if registry.lists_referrers else None
    if index is None:
        registry.lists_referrers = False  # one question for each image, not two
        index = registry.listing(path, f"manifests/{tag_of(digest)}", INDEX)
    return [each for each in listed(index) if not kind or each.get("artifactType") == kind]


def listed(index: object) -> list[dict[str, Any]]:
    """The descriptors in an index. The index is not trusted to be well formed."""
    entries = index.get("manifests") if isinstance(index, dict) else None
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


def content_of(registry: Registry, path: str, digest: str) -> bytes:
    """The bytes that were attached by the manifest with this digest. Raises ``Unavailable`` and ``NoImage``."""
    return registry.small_blob(path, json.loads(registry.raw_manifest(path, digest))["layers"][0]["digest"])


def give_blob(registry: Registry, path: str, media_type: str, content: bytes) -> dict[str, Any]:
    """Let a registry hold these bytes; how a manifest names them. Raises ``Unavailable``."""
    described = descriptor(media_type, content)
    registry.give_blob(path, described["digest"], content)
    return described


def descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    """How a manifest names these bytes."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def tag_of(digest: str) -> str:
    """The tag that lists what is attached to the manifest with this digest."""
    return digest.replace(":", "-")
