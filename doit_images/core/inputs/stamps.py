"""Did anybody touch the inputs of an image while it was built?

Contents do not tell: a file that was changed and changed back is equal before and after, and the build may have read
what it held between. What the file system keeps of each entry (times, inode, size, mode) does, as long as no change
falls into the same tick of its clock as the look before.

A folder that is renamed, and renamed back, takes its files along with all their stamps: of its own, only the time of
the last change of status moves (ctime), while one in which something comes or goes gets the same time as its last
modification too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from doit_images.core.inputs.contents import tick

if TYPE_CHECKING:
    from doit_images.core.inputs.image_inputs import ContextPart

_ROUNDS = 5  # so often an entry is waited for that is being written all the time
Stamp = tuple[int, ...]
_ABSENT: Stamp = ()
_RESTLESS: Stamp = (-1,)  # no look finds it


@dataclass(frozen=True)
class Changes:
    """What has other stamps than before: ``files`` that were written to or replaced, and folders that were; ``folders``
    in which something came or went; ``doubtful``: one of these may have been replaced for that time as well, files and
    all, and no stamp would tell."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    doubtful: bool


@dataclass(frozen=True)
class Stamps:
    """What the file system says of the inputs of an image, by absolute path: files and links, and the folders that hold
    them, whose times also move when something hidden comes or goes in them. ``above`` are the folders on the way to
    those: what comes or goes there is no input, but whoever renames one puts another in its place."""

    files: Mapping[str, Stamp]
    folders: Mapping[str, Stamp]
    above: Mapping[str, Stamp]

    def again(self) -> Stamps:
        """The same entries as they are now."""
        return Stamps(*({path: _stamp(path) for path in stamps} for stamps in (self.files, self.folders, self.above)))

    def moved(self) -> Changes:
        """What has other stamps now."""
        now = self.again()
        before, after = {**self.above, **self.folders}, {**now.above, **now.folders}
        files = [path for path, stamp in self.files.items() if stamp != now.files[path]]
        touched = {path for path, stamp in before.items() if stamp != after[path]}
        replaced = {path for path in touched if _replaced(before[path], after[path])}
        stirred = touched - replaced

        def doubtful(path: str) -> bool:
            # What is above all projects is stirred all the time, so two of those in a row say nothing.
            inside = path in self.folders and os.path.dirname(path) in stirred  # noqa: PTH120 as text
            return inside or after[path][0] != after[path][1]

        doubt = {path for path in stirred if doubtful(path)}
        return Changes((*files, *sorted(replaced)), tuple(sorted(doubt | stirred & self.folders.keys())), bool(doubt))

    def unsettled(self, now: int) -> float:
        """For how many seconds from ``now`` (ns) a change may still get a stamp that is here already; 0: none may."""
        changed = [stamp[0] for stamp in (*self.files.values(), *self.folders.values()) if _young(stamp, now)]
        return max(map(tick, changed), default=0) / 1e9


def look(parts: Iterable[ContextPart]) -> Stamps:
    """The stamps of these inputs, at a moment from which on every change moves one: where one is so young that the
    clock of the file system may not have ticked since, it waits and looks again."""
    stamps = _first(parts)
    for _ in range(_ROUNDS):
        wait = stamps.unsettled(time.time_ns())
        if not wait:
            return stamps
        time.sleep(wait)
        now = stamps.again()
        if now == stamps:  # a stamp that is ahead of this machine's clock has not moved for a tick either
            return stamps
        stamps = now
    return Stamps(_at_rest(stamps.files), _at_rest(stamps.folders), stamps.above)


def _first(parts: Iterable[ContextPart]) -> Stamps:
    files: set[str] = set()
    folders: set[str] = set()
    way: set[str] = set()
    for part in parts:
        root = os.path.realpath(part.root)
        inside, around = part.selection.places()
        files |= {f"{root}/{path}" for path in inside}
        folders |= {f"{root}/{path}" if path else root for path in around}
        _walk(str(part.root), way)
        if part.label and part.ignore.path:  # a build gets a copy of the context's own
            files |= {str(part.ignore.path), os.path.realpath(part.ignore.path)}
    links = {path for path in way if os.path.islink(path)}  # noqa: PTH114 a path with .. in it stays as it is
    above = {os.path.realpath(path) for path in way - links} - folders
    return Stamps(*({path: _stamp(path) for path in sorted(paths)} for paths in (files | links, folders, above)))


def _walk(path: str, way: set[str]) -> None:
    """Add all that is gone through to get to an absolute path, where links lead included."""
    above = "/"
    for name in path.split("/"):
        here = os.path.join(above, name)  # noqa: PTH118 Path would take .. away, which means another folder after a link
        if here in way:
            above = here
            continue
        way.add(here)
        with contextlib.suppress(OSError):  # it is no link
            _walk(os.path.join(above, os.readlink(here)), way)  # noqa: PTH115, PTH118
        above = here


def _replaced(before: Stamp, after: Stamp) -> bool:
    """Whether a folder is another one, or was renamed, rather than that something came or went in it."""
    if before == _RESTLESS:
        return False
    return not (before and after) or before[1] == after[1] or before[3:5] != after[3:5]


def _at_rest(stamps: Mapping[str, Stamp]) -> dict[str, Stamp]:
    now = time.time_ns()
    return {path: _RESTLESS if _young(stamp, now) else stamp for path, stamp in stamps.items()}


def _young(stamp: Stamp, now: int) -> bool:
    return bool(stamp) and now - stamp[0] <= tick(stamp[0])


def _stamp(path: str) -> Stamp:
    try:
        status = os.lstat(path)
    except OSError:
        return _ABSENT
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_dev, status.st_ino, status.st_mode
