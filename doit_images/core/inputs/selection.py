"""Which files of a context does an image read, and what do they hold?

``dockerfile.reads`` says what a Dockerfile asks for; this module finds it in the context the way BuildKit
does when it computes the cache key of a ``COPY`` (``cache/contenthash``): what the ignore file hides
is not there; links on the way to a source are followed within the context, links below it are their text;
a folder brings all that is visible in it, its own mode included. ``docs/staleness.md`` tells the rules and where
we count more than BuildKit would.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.sources import SelectionItem, find
from doit_images.core.inputs.view import View


class InputFile(NamedTuple):
    """One input: ``path`` relative to its context, ``kind`` (file, link, dir, special), ``mode`` (permission
    bits), ``digest`` (hex sha256 of a file's content or a link's text; empty for a folder).
    """

    path: str
    kind: str
    mode: int
    digest: str


class Selection:
    """The inputs that one image has in one context."""

    def __init__(self, view: View, items: Iterable[SelectionItem], asked: Iterable[str] = ()) -> None:
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

    def sources(self) -> list[str]:
        """What is asked for by its path (``""``: the whole context), and what lies on the way there."""
        return [item.path for item in self._items if item.path or item.whole]

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

    def of(self, copies: Iterable[Copy], where: str) -> Selection:
        """What some of the ``copies`` that this was made for read of the same view."""
        return select(self._view, copies, where)

    def entries(self) -> list[InputFile]:
        """All inputs, sorted by path, each once."""
        entries: dict[str, InputFile] = {}
        for item in self._items:
            for path in _walk(self._view, item):
                if path and path not in entries:
                    entries[path] = _entry(self._view, path)
        return [entries[path] for path in sorted(entries)]


def select(view: View, copies: Iterable[Copy], where: str) -> Selection:
    """What these ``copies`` of one Dockerfile (named in messages as ``where``) read of a view.

    A source that matches nothing raises ``UserError`` with the line, and what it may have meant.
    """
    key = tuple(copies)
    selection = view.selections.get(key)
    if not isinstance(selection, Selection):
        view.asked = set()
        items = find(view, key, where)
        selection = view.selections[key] = Selection(view, items, frozenset(view.asked))
    return selection


def shown(entries: Sequence[InputFile]) -> list[str]:
    """The paths that people are shown: files, links and folders that hold no other entry."""
    full = {entry.path.rpartition("/")[0] for entry in entries}
    return [entry.path for entry in entries if entry.kind != "dir" or entry.path not in full]


def _entry(view: View, path: str) -> InputFile:
    if not path:
        return InputFile("", "dir", 0, "")  # the client never sends the context's own folder
    folder, _, name = path.rpartition("/")
    listing = view.tree.folder(folder)
    number = listing.find(name)
    mode = listing.modes[number]
    if stat.S_ISDIR(mode):
        return InputFile(path, "dir", stat.S_IMODE(mode), "")
    kind = "link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) else "special"
    return InputFile(path, kind, 0 if kind == "link" else stat.S_IMODE(mode), listing.digest(number).hex())


def _walk(view: View, item: SelectionItem) -> Iterator[str]:
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
