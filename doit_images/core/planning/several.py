"""What becomes of an image that is built for several platforms?

containerd's image store holds them all, as one index. The classic store holds one platform of an image: it gets the
engine's, and the whole index stays in the layout that the builder wrote (``buildkit.oci_transfer``). What its children
are made on is the index then, in both stores.
"""

from __future__ import annotations

from pathlib import Path

from doit_images.core.base import platforms
from doit_images.core.buildkit import oci_transfer
from doit_images.core.engine.client import LocalImage
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS
from doit_images.core.inputs.image_inputs import ImageInputs


def problem(inputs: ImageInputs, engine: str, *, dedicated: bool, containerd: bool) -> str:
    """Why an image of these platforms cannot be had by an engine of the platform ``engine``; "" if it can."""
    if len(inputs.platforms) < 2 or containerd:
        return ""
    wanted = ", ".join(inputs.platforms)
    if not dedicated:
        return (
            f"{wanted} are wanted at once, which the engine's own BuildKit cannot build into the classic image store: "
            "set BUILDER_DRIVER to a dedicated builder, or let the engine use containerd's image store"
        )
    if not platforms.chosen(inputs.platforms, engine):
        return (
            f"{wanted} are wanted, and the classic image store of this engine can hold {engine} only: add that to the "
            "platforms, or let the engine use containerd's image store"
        )
    return ""


def index_of(inputs: ImageInputs, local_image: LocalImage, results: Path, *, containerd: bool) -> str:
    """The digest of the index that the engine's image ``local_image`` is part of, if all its platforms are here and
    were made in the same way; else "". ``results`` is the folder of the layouts."""
    if containerd:
        # A single manifest is not whole. Engines before API 1.48 do not tell, and hold under an index what they loaded.
        return "" if local_image.fixed else local_image.id
    expected = {label: local_image.labels.get(label, "") for label in (INPUT_DIGEST, PARENTS)}
    return oci_transfer.whole(oci_transfer.folder_of(results, inputs.name), local_image.id, inputs.platforms, expected)
