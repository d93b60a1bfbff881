"""Which tests passed on this machine? One file for each result, in the user's state folder, for all checkouts.

A file that is lost or damaged costs one run of its tests.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from doit_images.ci.results.result import Result, result_of
from doit_images.core.base import checked_json, places

KEPT = 5000
"""So many results are kept; of more, those that were not asked for the longest go."""
_SWEEP = 16  # one in so many times, by the second digit of the fingerprint, it is looked whether there are more


def look(fingerprint: str) -> Result | None:
    """What passed here on this fingerprint, if anything did."""
    path = _path(fingerprint)
    result = result_of(checked_json.recall(path), fingerprint)
    if result:
        with contextlib.suppress(OSError):
            os.utime(path)
    return result


def keep(result: Result) -> None:
    """Keep a result; where that cannot be written, it is told."""
    checked_json.remember(_path(result.fingerprint), result.kept())
    if int(result.fingerprint[:2], 16) % _SWEEP == 0:
        _sweep(_folder())


def forget(fingerprint: str) -> None:
    """Nothing passed here on this fingerprint any more."""
    with contextlib.suppress(OSError):
        _path(fingerprint).unlink()


def _sweep(folder: Path) -> None:
    with contextlib.suppress(OSError):
        oldest = sorted((path.stat().st_mtime, path) for path in folder.glob("*.json"))
        for _, path in oldest[:-KEPT]:
            path.unlink(missing_ok=True)


def _path(fingerprint: str) -> Path:
    return _folder() / f"{fingerprint}.json"


def _folder() -> Path:
    return places.state_folder() / "tests"
