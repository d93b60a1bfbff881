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
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tasks.errors import Trouble
from tasks.ignorefile import IgnoreFile, Patterns, State, clean, rule_of
from tasks.reads import Copy
from tasks.tree import Folder, Tree

_MAX_LINKS = 255
_WILD = re.compile(r"(?:[^\\*?\[]|\\.)*[*?\[]", re.DOTALL)
_GO_CLASS = re.compile(r"\[(\^?)((?:[^\\\]\[^-]|\\.)(?:-(?:[^\\\]\[^-]|\\.))?)+\]", re.DOTALL)


@dataclass(frozen=True)
class Entry:
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

    def visible(self, folder: str) -> tuple[Folder, list[int]]:
        """The listing of a folder and the numbers of its visible entries."""
        listing = self.tree.folder(folder)
        found = self._visible.get(folder)
        if found is None:
            found = self._visible[folder] = self._judge(folder, listing)
        return listing, found

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
        found = self._digests.get(folder)
        if found is not None:
            return found
        listing, numbers = self.visible(folder)
        parts = []
        for number in numbers:
            name, mode = listing.names[number], listing.modes[number]
            if stat.S_ISDIR(mode):
                path = f"{folder}/{name}" if folder else name
                below = self.digest(path) + self.tree.attributes(path)
            else:
                below = listing.digest(number)
            parts.append(b"%b\0%o\0%d\0%b" % (os.fsencode(name), mode, len(below), below))
        found = self._digests[folder] = hashlib.sha256(b"".join(parts)).digest()
        return found

    def select(self, copies: Iterable[Copy], where: str) -> Selection:
        """What these ``copies`` of one Dockerfile (named in messages as ``where``) read of this view.

        A source that matches nothing raises ``Trouble`` with the line, and what it may have meant.
        """
        key = tuple(copies)
        found = self._selections.get(key)
        if found is None:
            found = self._selections[key] = Selection(self, _select(self, key, where))
        return found

    def _state(self, folder: str) -> State:
        found = self._states.get(folder)
        if found is None:
            above, _, _ = folder.rpartition("/")
            found = self._states[folder] = self.ignore.judge(folder, self._state(above))[1]
        return found

    def _judge(self, folder: str, listing: Folder) -> list[int]:
        if not self.ignore.groups:
            return list(range(len(listing.names)))
        state = self._state(folder)
        prefix = f"{folder}/" if folder else ""
        found = []
        for number, name in enumerate(listing.names):
            path = prefix + name
            hidden, below = self.ignore.judge(path, state)
            if stat.S_ISDIR(listing.modes[number]):
                self._states[path] = below
                if hidden:  # BuildKit sends a hidden folder all the same when something in it is shown
                    hidden = not (self.ignore.may_show_below(path) and self.visible(path)[1])
            if not hidden:
                found.append(number)
        return found


@dataclass(frozen=True)
class _Item:
    """One part of a selection: ``whole`` folders bring all that is visible in them, others only themselves."""

    path: str
    whole: bool


class Selection:
    """The inputs that one image has in one context."""

    def __init__(self, view: View, items: Iterable[_Item]) -> None:
        self._view = view
        self._items = sorted(set(items), key=lambda item: (item.path, item.whole))
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

    def entries(self) -> list[Entry]:
        """All inputs, sorted by path, each once."""
        found: dict[str, Entry] = {}
        for item in self._items:
            for path in _walk(self._view, item):
                if path and path not in found:
                    found[path] = _entry(self._view, path)
        return [found[path] for path in sorted(found)]


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


def _walk(view: View, item: _Item) -> Iterator[str]:
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


def _select(view: View, copies: Iterable[Copy], where: str) -> list[_Item]:
    items: list[_Item] = []
    for copy in copies:
        for source in copy.sources:
            found = _parents(view, copy, source) if copy.parents else _source(view, copy, source)
            if found is None:
                raise _missing(view, copy, source, where)
            items += found
    return items


def _source(view: View, copy: Copy, source: str) -> list[_Item] | None:
    """What one source brings; ``None`` when BuildKit would say "not found"."""
    path = clean("/" + source).strip("/")
    if copy.literal or not _WILD.match(path):
        if "\\" in path and not copy.literal:  # an escape without a wildcard: BuildKit's own parts disagree on it
            return [_Item("", True)]
        return _follow(view, copy, path)
    parts = path.split("/")
    fixed = next(number for number, part in enumerate(parts) if _WILD.match(part))
    prefix = "/".join(parts[:fixed])
    base, links = view.resolve(prefix)
    items = [_Item(link, False) for link in links]
    if base is None or not stat.S_ISDIR(view.mode(base) or 0):
        return items  # a wildcard may match nothing
    match = _go_match(path)
    if match is None:
        return [*items, _Item(base, True)]
    depth = len(parts) - fixed if "[" not in path else 10_000  # a class like [^a] matches "/" as well
    for found in _matching(view, base, prefix, match, depth):
        more = _follow(view, copy, found)
        if more is None:
            return None
        items += more
    return items


def _matching(view: View, base: str, prefix: str, match: re.Pattern[str], depth: int) -> Iterator[str]:
    """Visible paths at or below ``base``, called ``prefix`` in the pattern, that match; nothing below a match."""
    pending = [(base, prefix, depth)]
    while pending:
        folder, called, left = pending.pop()
        listing, numbers = view.visible(folder)
        for number in numbers:
            name = listing.names[number]
            path, alias = (f"{above}/{name}" if above else name for above in (folder, called))
            if match.fullmatch(alias):
                yield path
            elif left > 1 and stat.S_ISDIR(listing.modes[number]):
                pending.append((path, alias, left - 1))


def _follow(view: View, copy: Copy, path: str) -> list[_Item] | None:
    """A source without wildcards, or one match of a wildcard: links are followed to what they mean."""
    target, links = view.resolve(path)
    if target is None:
        return None
    items = [_Item(link, False) for link in links]
    is_folder = stat.S_ISDIR(view.mode(target) or 0)
    if not copy.exclude or not is_folder or links:
        return [*items, _Item(target, is_folder)]
    return [*items, *_filtered(view, target, None, _patterns(copy.exclude))]


def _parents(view: View, copy: Copy, source: str) -> list[_Item]:
    """``COPY --parents``: what is below the pivot ``/./`` goes by moby's patterns, and folders on the way count."""
    pivot, dot, pattern = source.partition("/./")
    if not dot:
        pivot, pattern = "", source
    base, links = view.resolve(clean("/" + pivot).strip("/"))
    items = [_Item(link, False) for link in links]
    if _WILD.match(pivot) or "\\" in source:
        return [_Item("", True)]
    if base is None or not stat.S_ISDIR(view.mode(base) or 0):
        return items
    include = _patterns([clean("/" + pattern).strip("/") or "**"])
    return [*items, *_filtered(view, base, include, _patterns(copy.exclude))]


def _filtered(view: View, base: str, include: Patterns | None, exclude: Patterns) -> list[_Item]:
    """Paths below ``base`` that ``include`` matches (``None``: all) and ``exclude`` does not."""
    items = [_Item(base, False)] if include is None else []

    def descend(folder: str, relative: str, included: State, excluded: State) -> bool:
        any_here = False
        listing, numbers = view.visible(folder)
        for number in numbers:
            name, mode = listing.names[number], listing.modes[number]
            path, candidate = (f"{above}/{name}" if above else name for above in (folder, relative))
            wanted, more_in = include.judge(candidate, included) if include else (True, ())
            dropped, more_out = exclude.judge(candidate, excluded)
            take = wanted and not dropped
            if stat.S_ISDIR(mode):
                take = descend(path, candidate, more_in, more_out) or take
            elif stat.S_ISLNK(mode) and include is not None:
                target, links = view.resolve(path)  # a pattern may go through a link, as BuildKit's copy does
                items.extend(_Item(link, False) for link in links)
                if target is not None:
                    items.append(_Item(target, stat.S_ISDIR(view.mode(target) or 0)))
            if take:
                items.append(_Item(path, False))
                any_here = True
        return any_here

    descend(base, "", (), ())
    return items


def _patterns(texts: Iterable[str]) -> Patterns:
    return Patterns(rule for text in texts if (rule := rule_of(text)))


def _go_match(pattern: str) -> re.Pattern[str] | None:
    """Go's ``path.Match`` as a regular expression; ``None`` for a pattern that is not well formed."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            found = _GO_CLASS.match(pattern, at)
            if not found:
                return None
            inner = found[0][2 if found[1] else 1 : -1]
            body = re.sub(r"\\(.)|([&|~\[])", lambda m: re.escape(m[1] or m[2]), inner, flags=re.DOTALL)
            out.append(f"[{found[1]}{body}]")
            at = found.end() - 1
        elif char == "\\":
            at += 1
            if at >= len(pattern):
                return None
            out.append(re.escape(pattern[at]))
        else:
            out.append(re.escape(char))
        at += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        return None


def _missing(view: View, copy: Copy, source: str, where: str) -> Trouble:
    path = clean("/" + source).strip("/")
    context = f"the context {copy.context!r}" if copy.context else "the context"
    return Trouble(
        f"{copy.instruction}: {context} has no {path!r}",
        where=f"{where}:{copy.line}",
        remedy=_hint(view, path),
    )


def _hint(view: View, path: str) -> str:
    import difflib

    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        part, folder = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
        if view.mode(part) is not None:
            continue
        listing, numbers = view.visible(folder)
        if listing.find(parts[depth - 1]) >= 0:
            rule = view.ignore.hider(part)
            place = f"{view.ignore.path}:{rule.line} hides {part!r} with {rule.text!r}" if rule else ""
            return place or f"{view.ignore.path} hides {part!r}"
        names = [listing.names[number] for number in numbers]
        close = difflib.get_close_matches(parts[depth - 1], names, 1, 0.6)
        if close:
            return f"did you mean {'/'.join([*parts[: depth - 1], close[0], *parts[depth:]])!r}?"
        return f"{folder or view.tree.root!r} holds {', '.join(map(repr, names[:5])) or 'nothing'}"
    links = view.resolve(path)[1]
    return f"the link {links[-1]!r} points to {view.tree.link(links[-1])!r}" if links else ""
