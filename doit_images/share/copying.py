"""How does an image get from one repository into another, of this registry or the next, with all that is attached?

By its digest and with no name, so nobody meets half of it. Blobs that are there already are not sent again; a registry
that lends blobs between its repositories moves none.
"""

from __future__ import annotations

from typing import NamedTuple

from doit_images.core.base import leftovers, oci
from doit_images.share import referrers
from doit_images.share.no_answer import NoImage
from doit_images.share.registry import Registry
from doit_images.share.transport import parsed


class Place(NamedTuple):
    """A repository of a registry."""

    registry: Registry
    path: str

    @property
    def name(self) -> str:
        """As it is written in a reference."""
        return f"{self.registry.address}/{self.path}"


def copy(source: Place, target: Place, digest: str) -> bytes:
    """Let ``target`` hold the image, or the index of images, that ``source`` has by this digest, and what is attached
    to it; the bytes of its manifest. Raises ``Unavailable``, and ``NoImage`` where it is not whole."""
    text = source.registry.raw_manifest(source.path, digest)
    if source == target:
        return text
    try:
        manifest = parsed(text)
        for child in manifest.get("manifests") or ():
            copy(source, target, child["digest"])
        for blob in (manifest["config"], *manifest["layers"]) if "manifests" not in manifest else ():
            _copy_blob(source, target, blob["digest"], blob["size"])
        if "subject" in manifest:
            referrers.give(target.registry, target.path, text)
        else:
            target.registry.give_manifest(target.path, digest, oci.media_type_of(manifest), text)
        attached = [each["digest"] for each in referrers.attached(source.registry, source.path, digest)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoImage("returned something that is not an image") from None
    for each in attached:
        copy(source, target, each)
    return text


def _copy_blob(source: Place, target: Place, digest: str, size: int) -> None:
    beside = source.path if source.registry is target.registry else ""
    if target.registry.has_blob(target.path, digest, beside):
        return
    with leftovers.folder("copy-") as folder:
        source.registry.take_blob(source.path, digest, folder / "blob", size)
        target.registry.give_blob(target.path, digest, folder / "blob")
