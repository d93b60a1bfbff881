"""When were the other machines last asked about what is fresh here?

A run with nothing to do asks nobody. Only a rebuild on purpose (``rebuild``) gives an image another result
that all are to have, and for that the shared registry is asked once in a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path


class LastAsked:
    """The memory of it: the time of an empty file in the project's folder, one for each registry and engine (``whom``).

    ``every`` is how many seconds an answer is good. A file that is lost costs one round of questions.
    """

    def __init__(self, folder: Path, whom: Iterable[str], every: float) -> None:
        number = hashlib.sha256("\n".join(whom).encode(errors="surrogateescape")).hexdigest()
        self._file = folder / f"asked-{number[:16]}"
        self._every = every

    @property
    def due(self) -> bool:
        """Whether it is time to ask again; a time in the future is none."""
        try:
            age = time.time() - self._file.stat().st_mtime
        except OSError:
            return True
        return not 0 <= age < self._every

    def now(self) -> None:
        """Remember that all were asked, or that the registry gave no answer: either way it is left alone for a while.
        A file that cannot be written is nothing to fail for."""
        with contextlib.suppress(OSError):
            self._file.touch()
