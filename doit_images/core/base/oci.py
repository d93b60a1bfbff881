"""What is a document of OCI's: the manifest of one image, or an index that lists several?"""

from __future__ import annotations

from collections.abc import Mapping

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def media_type_of(document: Mapping[str, object]) -> str:
    """The media type of a manifest or an index, which need not say it itself: only an index has ``manifests``.

    >>> media_type_of({"manifests": []}) == INDEX, media_type_of({"layers": []}) == MANIFEST
    (True, True)
    """
    return str(document.get("mediaType") or (INDEX if "manifests" in document else MANIFEST))
