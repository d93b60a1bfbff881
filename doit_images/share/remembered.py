"""What did the shared registry last say of images that are not here, and that nothing here needed?

A child is known to be fresh by what its parent holds, also where the parent is not here: each run would have to ask the
registry about that one. What is remembered decides nothing else (``agreement.remembered``): for what is to be built or
pulled, and for rebuilds on purpose, the registry itself is asked.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from doit_images.core.base import memory
from doit_images.core.base.shapes import fits
from doit_images.core.engine.labels import translated
from doit_images.core.planning.shared_image import SharedImage

_OLDEST_SECONDS = 30 * 86400.0


class Remembered:
    """The memory of it: a ``file``, which may be lost. ``seconds`` is how long an answer is good."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._seconds = file, seconds

    def recent(self, names: Collection[str]) -> dict[str, SharedImage]:
        """What is known of these, if that is all of them: else the registry has to be asked in any case."""
        known = self._known(names, self._seconds)
        return known if len(known) == len(names) else {}

    def ever(self, names: Collection[str]) -> dict[str, SharedImage]:
        """What was known of these at any time, for a registry that does not answer."""
        return self._known(names, _OLDEST_SECONDS)

    def keep(self, images: Mapping[str, SharedImage]) -> None:
        """Remember these, too, as said now."""
        now, before = time.time(), memory.recall(self._file) or {}
        young = {name: entry for name, entry in before.items() if _age(entry, now) < _OLDEST_SECONDS}
        memory.remember(self._file, {**young, **{name: [now, asdict(image)] for name, image in images.items()}})

    def _known(self, names: Collection[str], seconds: float) -> dict[str, SharedImage]:
        now, entries, known = time.time(), memory.recall(self._file) or {}, {}
        for name in names:
            with contextlib.suppress(LookupError, ValueError, TypeError):
                image = SharedImage(**entries[name][1])
                if _age(entries[name], now) < seconds and fits(image, SharedImage):
                    known[name] = replace(image, labels=translated(image.labels))
        return known


def _age(entry: Any, now: float) -> float:
    """The seconds since an answer; infinite for what is none, and for one of the future."""
    try:
        age = now - float(entry[0])
    except (TypeError, ValueError, KeyError, IndexError):
        return math.inf
    return age if age >= 0 else math.inf
