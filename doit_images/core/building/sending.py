"""Did whoever sent a builder its contexts come to see that nothing had moved meanwhile?

What a builder was sent and nobody looked at again may stay there: of a file that is put back, with its size and time,
BuildKit's client sends nothing. A build that does not come to its end begins another ``generation`` (``inputs.tree``)
itself; one that was killed leaves a mark, by which the next one does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from doit_images.core.base import lock
from doit_images.core.inputs.stamps import Changes, Stamps
from doit_images.core.inputs.tree import FileIndex


@contextlib.contextmanager
def contexts(index: FileIndex | None, folder: Path) -> Iterator[None]:
    """Around all that reads contexts by the names that ``index`` gives them: in ``folder``, our ``.doit-images``, there
    is a locked file until the block ends, so that one without a lock is of a process that was killed. ``UserError``
    where it cannot be written."""
    if index is None:
        yield
        return
    marks = folder / "sending"
    _killed(index, marks)
    mark = marks / os.urandom(8).hex()
    try:
        with lock.exclusive(mark):
            yield
    except BaseException:
        index.renew()
        raise
    finally:
        mark.unlink(missing_ok=True)


def changes_since(index: FileIndex | None, before: Stamps) -> Changes:
    """What of the inputs has other stamps than before they were sent; where a builder may hold something else of them,
    another generation begins. Called within the block of ``contexts``: whoever is killed before it leaves the mark."""
    changes = before.moved()
    if index and (changes.files or changes.doubtful):
        index.renew()
    return changes


def _killed(index: FileIndex, marks: Path) -> None:
    for mark in marks.glob("*"):
        with lock.try_exclusive(mark) as ours:
            if ours:
                index.renew()
                mark.unlink(missing_ok=True)
