"""What was an image made from when it was last built here?

One file for each image, ``images/<image>.json`` in the project's folder, written when a build, pull or retag is done.
It is a doit target and tells reasons; it never decides what is fresh: the engine does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from doit_images.core.base import checked_json
from doit_images.core.base.shapes import fits
from doit_images.core.inputs.fingerprint import BuildInputs


class Record(NamedTuple):
    """The last image of one name: what from, when (seconds since the epoch), how long it took, its id and bytes."""

    image: str
    ref: str
    action: str
    fingerprint: str
    build_inputs: BuildInputs
    parents: Mapping[str, str]
    image_id: str
    size: int
    finished: float
    seconds: float


def path_of(folder: Path, image: str) -> Path:
    """Where the record of an image lies, in the project's folder."""
    return folder / "images" / f"{image}.json"


def write(folder: Path, record: Record) -> None:
    """Keep the record in place of the last one."""
    checked_json.remember(
        path_of(folder, record.image), {**record._asdict(), "build_inputs": record.build_inputs._asdict()}
    )


def read(folder: Path, image: str) -> Record | None:
    """The last record of an image; None if there is none, or none that can be read: it only tells reasons."""
    content = checked_json.recall(path_of(folder, image))
    if content is None:
        return None
    try:
        build_inputs = BuildInputs(**content["build_inputs"] | {"remotes": tuple(content["build_inputs"]["remotes"])})
        record = Record(**content | {"build_inputs": build_inputs})
        return record if fits(record, Record) else None
    except (ValueError, KeyError, TypeError):  # written by another version
        return None
