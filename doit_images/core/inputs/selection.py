"""Which files of a context does an image read, and what do they hold?

``dockerfile.reads`` says what a Dockerfile asks for; this module finds it in the context the way BuildKit
does when it computes the cache key of a ``COPY`` (``cache/contenthash``): what the ignore file hides
is not there; links on the way to a source are followed within the context, links below it are their text;
a folder brings all that is visible in it, its own mode included. ``docs/staleness.md`` tells the rules and where
we count more than BuildKit would.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from doit_images.core.inputs.ignorefile import IgnoreFile, State
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.sources import Item, find
from doit_images.core.inputs.tree import LINE, Folder, Tree

_MAX_LINKS = 255


class Entry(NamedTuple):
    """One input: ``path`` relative to its context, ``kind`` (file, link, dir, special), ``mode`` (permission
    bits), ``digest`` (hex sha256 of a file's content or a link's text; empty for a folder).
    """

    path: str
    kind: str
    mode: int
    digest: str


class View:
    """What of a tree BuildKit sees: the tree without what its ignore file hides. Answers are remembered."""

    def __init__(self, tree: Tree, ignore: IgnoreFile) -> None:
        self.tree = tree
        self.ignore = ignore
        self._states: dict[str, State] = {"": ()}
        self._visible: dict[str, list[int]] = {}
        self._digests: dict[str, bytes] = {}
        self._selections: dict[tuple[Copy, ...], Selection] = {}
        self._asked: set[str] = set()

    def visible(self, folder: str) -> tuple[Folder, list[int]]:
        """The listing of a folder and the numbers of its visible entries."""
        self._asked.add(folder)
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
                self._digests[here] = self._digest(here, bool(below))
            pending.pop()
        return self._digests[folder]

    def _folders(self, folder: str) -> list[str]:
        """The visible folders in a folder."""
        listing, numbers = self.visible(folder)
        prefix = f"{folder}/" if folder else ""
        return [prefix + listing.names[number] for number in numbers if stat.S_ISDIR(listing.modes[number])]

    def _digest(self, folder: str, holds_folders: bool) -> bytes:
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

    def select(self, copies: Iterable[Copy], where: str) -> Selection:
        """What these ``copies`` of one Dockerfile (named in messages as ``where``) read of this view.

        A source that matches nothing raises ``UserError`` with the line, and what it may have meant.
        """
        key = tuple(copies)
        selection = self._selections.get(key)
        if selection is None:
            self._asked = set()
            items = find(self, key, where)
            selection = self._selections[key] = Selection(self, items, frozenset(self._asked))
        return selection

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
                self._asked.update(unknown)
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


class Selection:
    """The inputs that one image has in one context."""

    def __init__(self, view: View, items: Iterable[Item], asked: Iterable[str] = ()) -> None:
        self._view = view
        self._items = sorted(set(items), key=lambda item: (item.path, item.whole))
        self._asked = asked
        self._digest = ""

    @property
    def digest(self) -> str:
        """sha256 (hex) over all entries: the same for equal content, wherever and whenever it is computed."""
        if not self._digest:
            total = hashlib.sha256()
            for item in self._items:
                entry = _entry(self._view, item.path)
                total.update(os.fsencode("\0".join((entry.path, entry.kind, f"{entry.mode:o}", entry.digest, ""))))
                if entry.kind == "dir":
                    total.update(self._view.tree.attributes(item.path) if item.path else b"")
                    total.update(self._view.digest(item.path) if item.whole else b"")
            self._digest = total.hexdigest()
        return self._digest

    def files(self) -> list[str]:
        """The paths of the regular files among the inputs, each once; what else ``entries`` tells is not looked up."""
        paths: dict[str, None] = {}
        for item in self._items:
            mode = self._view.mode(item.path) or 0
            if stat.S_ISREG(mode):
                paths[item.path] = None
            pending = [item.path] if item.whole and stat.S_ISDIR(mode) else []
            while pending:
                folder = pending.pop()
                listing, numbers = self._view.visible(folder)
                prefix = f"{folder}/" if folder else ""
                for number in numbers:
                    kind = stat.S_IFMT(listing.modes[number])
                    if kind == stat.S_IFREG:
                        paths[prefix + listing.names[number]] = None
                    elif kind == stat.S_IFDIR:
                        pending.append(prefix + listing.names[number])
        return list(paths)

    def has(self, path: str) -> bool:
        """Whether a path is among the inputs: a file, or a folder with all that is visible in it."""
        above = ["", *(path[:at] for at, char in enumerate(path) if char == "/")]
        if not all(stat.S_ISDIR(self._view.mode(folder) or 0) for folder in above) or self._view.mode(path) is None:
            return False
        whole = {*above, path}
        return any(item.path == path or (item.whole and item.path in whole) for item in self._items)

    def places(self) -> tuple[list[str], list[str]]:
        """Where a change may change what is read: the inputs that are no folders, and every folder that was asked
        what it holds, on the way to a source, for a wildcard or because it is copied. Relative paths, each once."""
        paths = {path for item in self._items for path in _walk(self._view, item)}
        folders = {path for path in paths if stat.S_ISDIR(self._view.mode(path) or 0)}
        return sorted(paths - folders), sorted(self._view.holders(folders.union(self._asked, [""])))

    def entries(self) -> list[Entry]:
        """All inputs, sorted by path, each once."""
        entries: dict[str, Entry] = {}
        for item in self._items:
            for path in _walk(self._view, item):
                if path and path not in entries:
                    entries[path] = _entry(self._view, path)
        return [entries[path] for path in sorted(entries)]


def shown(entries: Sequence[Entry]) -> list[str]:
    """The paths that people are shown: files, links and folders that hold no other entry."""
    full = {entry.path.rpartition("/")[0] for entry in entries}
    return [entry.path for entry in entries if entry.kind != "dir" or entry.path not in full]


def _holds(numbers: Sequence[int], number: int, count: int) -> bool:
    if len(numbers) == count:
        return True
    at = bisect.bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


def _entry(view: View, path: str) -> Entry:
    if not path:
        return Entry("", "dir", 0, "")  # the client never sends the context's own folder
    folder, _, name = path.rpartition("/")
    listing = view.tree.folder(folder)
    number = listing.find(name)
    mode = listing.modes[number]
    if stat.S_ISDIR(mode):
        return Entry(path, "dir", stat.S_IMODE(mode), "")
    kind = "link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) else "special"
    return Entry(path, kind, 0 if kind == "link" else stat.S_IMODE(mode), listing.digest(number).hex())


def _walk(view: View, item: Item) -> Iterator[str]:
    yield item.path
    if not item.whole or not stat.S_ISDIR(view.mode(item.path) or 0):
        return
    pending = [item.path]
    while pending:
        folder = pending.pop()
        listing, numbers = view.visible(folder)
        for number in numbers:
            path = f"{folder}/{listing.names[number]}" if folder else listing.names[number]
            yield path
            if stat.S_ISDIR(listing.modes[number]):
                pending.append(path)
