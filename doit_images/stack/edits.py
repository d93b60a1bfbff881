"""When is a file edited, and which?

The system tells that something in a folder changed, and not always what: so the folder is looked at before and after.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from doit_images.core.base import commands

# How long edits are gathered, so that a save of many files is one reaction.
_GATHER_MILLISECONDS = 300
_LOOK_MILLISECONDS = 500
Stats = dict[Path, tuple[int, ...]]


def stats_of(folders: Iterable[Path]) -> Stats:
    """The state of the files in these folders, to be compared with another one; of a folder only that it exists."""
    stats: Stats = {}
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    file = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
                    stats[Path(entry.path)] = () if entry.is_dir() else file
    return stats


def edited(before: Stats, now: Stats) -> set[Path]:
    """The paths that were added, removed or changed, without the temporary files of editors and interpreters."""
    from watchfiles import Change, DefaultFilter

    counts = DefaultFilter()
    changed = {path for path in before.keys() | now.keys() if before.get(path) != now.get(path)}
    return {path for path in changed if counts(Change.modified, str(path))}


def moments(folders: Iterable[Path]) -> Iterator[None]:
    """When to look: once the system has begun to watch these folders, and whenever it says that one changed."""
    import watchfiles

    batches = watchfiles.watch(
        *folders,
        recursive=False,
        debounce=_GATHER_MILLISECONDS,
        step=50,
        rust_timeout=_LOOK_MILLISECONDS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    first = True
    for batch in batches:
        if commands.stopping():
            return
        if batch or first:
            first = False
            yield
