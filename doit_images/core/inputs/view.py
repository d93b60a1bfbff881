"""What of a context does BuildKit see?"""

from __future__ import annotations

import bisect
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence

from doit_images.core.inputs.ignorefile import IgnoreFile, State
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.tree import LINE, Folder, Tree

_MAX_LINKS = 255


class View:
    """What of a tree BuildKit sees: the tree without what its ignore file hides. Answers are remembered."""

    def __init__(self, tree: Tree, ignore: IgnoreFile) -> None:
        self.tree = tree
        self.ignore = ignore
        self._states: dict[str, State] = {"": ()}
        self._visible: dict[str, list[int]] = {}
        self._digests: dict[str, bytes] = {}
        self.selections: dict[tuple[Copy, ...], object] = {}
        """What ``selection.select`` found here, by what it was asked for."""
        self.asked: set[str] = set()
        """The folders whose content was asked for."""

    def visible(self, folder: str) -> tuple[Folder, list[int]]:
        """The listing of a folder and the numbers of its visible entries."""
        self.asked.add(folder)
        listing = self.tree.folder(folder)
        numbers = self._visible.get(folder)
        if numbers is None:
            self._judge(folder)
            numbers = self._visible[folder]
        return listing, numbers

    def mode(self, path: str) -> int | None:
        """``st_mode`` of a visible path whose folder is a visible folder; ``None`` if there is no such thing."""
        if not path:
            return stat.S_IFDIR
        folder, _, name = path.rpartition("/")
        listing, numbers = self.visible(folder)
        number = listing.find(name)
        return listing.modes[number] if number >= 0 and _holds(numbers, number, len(listing.names)) else None

    def resolve(self, path: str) -> tuple[str | None, list[str]]:
        """Follow links as inside a chroot: the path that is meant (``None``: not there) and the links on the way."""
        links: list[str] = []
        rest = [part for part in path.split("/") if part]
        here: list[str] = []
        while rest:
            part = rest.pop(0)
            if part == ".":
                continue
            if part == "..":
                here = here[:-1]
                continue
            if here and not stat.S_ISDIR(self.mode("/".join(here)) or 0):
                return None, links
            step = "/".join([*here, part])
            mode = self.mode(step)
            if mode is None:
                return None, links
            if not stat.S_ISLNK(mode):
                here.append(part)
                continue
            links.append(step)
            if len(links) > _MAX_LINKS:
                return None, links
            target = self.tree.link(step)
            if target.startswith("/"):
                here = []
            rest = [name for name in target.split("/") if name] + rest
        return "/".join(here), links

    def digest(self, folder: str) -> bytes:
        """One sha256 for all that is visible in a folder, its name and own mode not included."""
        pending = [folder]  # folders may be nested more deeply than calls may be
        while pending:
            here = pending[-1]
            below = [] if here in self._digests else self._folders(here)
            if unknown := [path for path in below if path not in self._digests]:
                pending += unknown
                continue
            if here not in self._digests:
                self._digests[here] = self._digest(here, holds_folders=bool(below))
            pending.pop()
        return self._digests[folder]

    def _folders(self, folder: str) -> list[str]:
        """The visible folders in a folder."""
        listing, numbers = self.visible(folder)
        prefix = f"{folder}/" if folder else ""
        return [prefix + listing.names[number] for number in numbers if stat.S_ISDIR(listing.modes[number])]

    def _digest(self, folder: str, *, holds_folders: bool) -> bytes:
        """The same of a folder, those of the folders in it, if it ``holds_folders``, being known."""
        listing, numbers = self.visible(folder)
        if not holds_folders and 0 < len(numbers) == len(listing.names):
            return listing.whole()
        encoded = os.fsencode("\0".join(listing.names)).split(b"\0")
        prefix = f"{folder}/" if folder else ""
        parts = []
        for number in numbers:
            mode = listing.modes[number]
            if stat.S_ISDIR(mode):
                below = self._digests[prefix + listing.names[number]] + listing.attributes(number)
            else:
                below = listing.digest(number)
            parts.append(LINE % (encoded[number], mode, len(below), below))
        return hashlib.sha256(b"".join(parts)).digest()

    def holders(self, folders: Iterable[str]) -> set[str]:
        """These folders and the hidden ones below them that may come to hold something visible."""
        holders: set[str] = set()
        pending = list(folders)
        while pending:
            folder = pending.pop()
            if folder in holders:
                continue
            holders.add(folder)
            listing, numbers = self.visible(folder)
            for number, name in enumerate(listing.names):
                if stat.S_ISDIR(listing.modes[number]) and not _holds(numbers, number, len(listing.names)):
                    path = f"{folder}/{name}" if folder else name
                    pending += [path] if self.ignore.may_show_below(path) else []
        return holders

    def _state(self, folder: str) -> State:
        unknown = []
        while folder not in self._states:
            unknown.append(folder)
            folder = folder.rpartition("/")[0]
        state = self._states[folder]
        for path in reversed(unknown):
            state = self._states[path] = self.ignore.judge(path, state)[1]
        return state

    def _judge(self, folder: str) -> None:
        """Find out what is visible in a folder, and in the hidden ones below it for which that matters."""
        pending = [folder]
        while pending:
            numbers, unknown = self._judged(pending[-1])
            if unknown:
                self.asked.update(unknown)
                pending += unknown
            else:
                self._visible[pending.pop()] = numbers

    def _judged(self, folder: str) -> tuple[list[int], list[str]]:
        """What is visible in a folder; and the hidden folders in it of which it has to be known first whether something
        in them is."""
        listing = self.tree.folder(folder)
        if not self.ignore.groups:
            return list(range(len(listing.names))), []
        unknown: list[str] = []
        state = self._state(folder)
        prefix = f"{folder}/" if folder else ""
        visible = []
        for number, name in enumerate(listing.names):
            path = prefix + name
            hidden, below = self.ignore.judge(path, state)
            if stat.S_ISDIR(listing.modes[number]):
                self._states[path] = below
                if hidden and self.ignore.may_show_below(path):
                    if path not in self._visible:
                        unknown.append(path)
                    hidden = not self._visible.get(path)  # BuildKit sends it when something in it is shown
            if not hidden:
                visible.append(number)
        return visible, unknown


def _holds(numbers: Sequence[int], number: int, count: int) -> bool:
    if len(numbers) == count:
        return True
    at = bisect.bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number
