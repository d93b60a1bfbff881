"""Did anybody touch the inputs of an image while it was built?

Contents do not tell: a file that was changed and changed back is equal before and after, and the build may have read
what it held between. What the file system keeps of each entry (times, inode, size, mode) does, as long as no change
falls into the same tick of its clock as the look before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.content.tree import tick

if TYPE_CHECKING:
    from tasks.content.survey import Part

_ROUNDS = 5  # so often an entry is waited for that is being written all the time
Stamp = tuple[int, ...]
_ABSENT: Stamp = ()
_RESTLESS: Stamp = (-1,)  # no look finds it


@dataclass(frozen=True)
class Stamps:
    """What the file system says of the inputs of an image, by absolute path: files and links, and the folders that hold
    them, whose times also move when something hidden comes or goes in them."""

    files: Mapping[str, Stamp]
    folders: Mapping[str, Stamp]

    def again(self) -> Stamps:
        """The same entries as they are now."""
        return Stamps({path: _stamp(path) for path in self.files}, {path: _stamp(path) for path in self.folders})

    def moved(self) -> tuple[list[str], list[str]]:
        """Which files and which folders have other stamps now."""
        now = self.again()
        files = [path for path, stamp in self.files.items() if stamp != now.files[path]]
        return files, [path for path, stamp in self.folders.items() if stamp != now.folders[path]]

    def unsettled(self, now: int) -> float:
        """For how many seconds from ``now`` (ns) a change may still get a stamp that is here already; 0: none may."""
        changed = [stamp[0] for stamp in (*self.files.values(), *self.folders.values()) if _young(stamp, now)]
        return max(map(tick, changed), default=0) / 1e9


def look(parts: Iterable[Part]) -> Stamps:
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
    return Stamps(_at_rest(stamps.files), _at_rest(stamps.folders))


def _first(parts: Iterable[Part]) -> Stamps:
    files: set[str] = set()
    folders: set[str] = set()
    for part in parts:
        root = os.path.realpath(part.root)
        inside, around = part.selection.places()
        files |= {f"{root}/{path}" for path in inside}
        folders |= {f"{root}/{path}" if path else root for path in around}
        files |= {str(part.root)} if part.root.is_symlink() else set()
        if part.label and part.ignore.path:  # a build gets a copy of the context's own
            files |= {str(part.ignore.path), os.path.realpath(part.ignore.path)}
    return Stamps({path: _stamp(path) for path in sorted(files)}, {path: _stamp(path) for path in sorted(folders)})


def _at_rest(stamps: Mapping[str, Stamp]) -> dict[str, Stamp]:
    now = time.time_ns()
    return {path: _RESTLESS if _young(stamp, now) else stamp for path, stamp in stamps.items()}


def _young(stamp: Stamp, now: int) -> bool:
    return bool(stamp) and now - stamp[0] <= tick(stamp[0])


def _stamp(path: str) -> Stamp:
    try:
        found = os.lstat(path)
    except OSError:
        return _ABSENT
    return found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_dev, found.st_ino, found.st_mode
