"""What does a project say that its builds need?

    x-build-needs:
      memory: {cpus: 2, memory: 4g}    # the build of this image takes two processors and 4 GiB
      auth: {memory: 512m}

At the top of the Compose file, for Compose 2.26 leaves a service's own ``x-…`` out of its answer. It decides when an
image is built, never what it is made of, so it is no input. Units are those of Compose's ``mem_limit``: 1g is 1024m.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.base.errors import UserError

DECLARED = "x-build-needs"
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "k", "m", "g", "t"))}


class Needs(NamedTuple):
    """What a build needs while it goes on: processors, and bytes of memory; 0 where that is not known."""

    cpus: float = 0
    memory: int = 0


NOTHING = Needs()


def parse(declared: Any, images: Collection[str], file: Path) -> dict[str, Needs]:
    """The needs of images by name, as ``file`` declares them (None: not at all). ``UserError`` for what is not
    understood, and for a name that is none of ``images``."""
    try:
        if not isinstance(declared or {}, Mapping):
            raise ValueError("has to be a mapping of images to what they need")
        return {name: _needs(name, each, images) for name, each in sorted((declared or {}).items())}
    except ValueError as error:
        remedy = "such as `memory: {cpus: 2, memory: 4g}`, by the service's name"
        raise UserError(f"{DECLARED}: {error}", where=str(file), remedy=remedy) from None


def _needs(name: str, declared: object, images: Collection[str]) -> Needs:
    if name not in images:
        raise ValueError(f"there is no image {name}")
    if not isinstance(declared, Mapping):
        raise ValueError(f"{name} is {declared!r}")
    if odd := sorted(map(str, declared.keys() - set(Needs._fields))):
        raise ValueError(f"{name} has {odd[0]}")
    cpus, memory = declared.get("cpus", 0), str(declared.get("memory", 0))
    if isinstance(cpus, bool) or not isinstance(cpus, int | float) or not 0 <= cpus < math.inf:
        raise ValueError(f"cpus of {name} is {cpus!r}, but must be a number ≥ 0")
    size = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?)i?b?", memory, re.IGNORECASE)
    if size is None:
        raise ValueError(f"memory of {name} is {memory!r}, but must be a size such as 2g")
    return Needs(float(cpus), int(float(size[1]) * _UNITS[size[2].lower()]))
