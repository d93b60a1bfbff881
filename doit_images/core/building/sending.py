"""Were the files that a builder was sent checked again after the build?

A builder keeps what it was sent. If a file changes during the build and is then put back with its size and time,
BuildKit's client does not send it again. So a build that does not end normally begins another ``generation``
(``inputs.tree``). A build that is killed leaves a mark, and the next build begins the generation.
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
    """The inputs whose stamps differ from those before they were sent. If a builder may hold other content, another
    generation begins. Call it within the block of ``contexts``: a run that is killed before leaves the mark."""
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
