"""How large are the packages of Python that an image has installed? Its wheels say so themselves, in their RECORD."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import IO

from doit_images.ci.verifying.content import content_of
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.run import Run

_RECORD = re.compile(r"(?:.*/)?([^/]+)-[^/-]+\.dist-info/RECORD")


def sizes(run: Run, image: str, least: int) -> Mapping[str, int]:
    """The bytes of the files of each package, by its name in lower case with hyphens, of the image of this name as the
    engine has it now; nothing where it has none, or one that is smaller than ``least`` altogether. Nothing of it is
    run. Raises ``UserError`` where the engine cannot give it."""
    there = run.local_images.snapshot().get(run.project.images[image].ref)
    if not there or there.size < least:
        return {}
    layers = content_of(there.id, leading_to(run.engine.address), _look).layers
    return dict(found for layer in layers for found in layer.looked.values() if isinstance(found, tuple))


def _look(path: str, file: IO[bytes]) -> tuple[str, int] | None:
    """The name of a package and the bytes of its files, if this is the list of them."""
    if not (record := _RECORD.fullmatch(path)):
        return None
    rows = csv.reader(io.TextIOWrapper(file, errors="replace"))
    total = sum(int(row[2]) for row in rows if len(row) == 3 and row[2].isdecimal())
    return canonical(record[1]), total


def canonical(name: str) -> str:
    """A package's name as all spellings of it are compared: ``packaging.utils``, which only the extra ``ci`` brings.

    >>> canonical("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()
