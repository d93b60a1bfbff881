"""Which paths of a context does a source of ``COPY``, ``ADD`` or ``RUN --mount`` mean?

The answers are those of BuildKit's ``cache/contenthash`` and of Go's ``path.Match``: a wildcard never crosses ``/``
(but a class like ``[^a]`` may), a link that is named or matched is followed to what it means, a wildcard may match
nothing.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.inputs import wildcards
from doit_images.core.inputs.ignorefile import SPACE, Patterns, State, clean, rule_of
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.view import View

_WILD = re.compile(r"(?:[^\\*?\[]|\\.)*[*?\[]", re.DOTALL)
_GO_CLASS = re.compile(r"\[(\^?)((?:[^\\\]\[^-]|\\.)(?:-(?:[^\\\]\[^-]|\\.))?)+\]", re.DOTALL)


class SelectionItem(NamedTuple):
    """One part of a selection: ``whole`` folders bring all that is visible in them, others only themselves."""

    path: str
    whole: bool = False


def find(view: View, copies: Iterable[Copy], where: str) -> list[SelectionItem]:
    """All that these ``copies`` of one Dockerfile (named ``where``) bring.

    A source that is not there raises ``UserError`` with its line, and with what hides it or what it may have meant.
    """
    items: list[SelectionItem] = []
    for copy in copies:
        for source in copy.sources:
            try:
                items += _parents(view, copy, source) if copy.parents else _source(view, copy, source)
            except LookupError as absent:
                if copy.optional:
                    continue
                raise _missing(view, copy, str(absent.args[0]), where) from None
    return items


def _source(view: View, copy: Copy, source: str) -> list[SelectionItem]:
    """What one source brings; ``LookupError`` with the path that BuildKit would not find."""
    path = clean("/" + source).strip("/")
    if copy.literal or not _WILD.match(path):
        return _follow(view, copy, path)
    parts = path.split("/")
    fixed = next(number for number, part in enumerate(parts) if _WILD.match(part))
    prefix = "/".join(parts[:fixed])
    base, links = view.resolve(prefix)
    items = [SelectionItem(link) for link in links]
    if base is None or not stat.S_ISDIR(view.mode(base) or 0):
        return items  # a wildcard may match nothing
    match = _wildcards(path, prefix, "/".join(parts[fixed:]))
    if match is None:
        return [*items, SelectionItem(base, whole=True)]
    depth = len(parts) - fixed if "[" not in path else 10_000  # a class like [^a] matches "/" as well
    for matched in _matching(view, base, prefix, match, depth):
        items += _follow(view, copy, matched)
    return items


def _matching(view: View, base: str, prefix: str, match: wildcards.Matcher, depth: int) -> Iterator[str]:
    """Visible paths at or below ``base``, called ``prefix`` in the pattern, that match; nothing below a match."""
    pending = [(base, prefix, depth)]
    while pending:
        folder, called, left = pending.pop()
        listing, numbers = view.visible(folder)
        for number in numbers:
            name = listing.names[number]
            path, alias = (f"{above}/{name}" if above else name for above in (folder, called))
            if match(alias):
                yield path
            elif left > 1 and stat.S_ISDIR(listing.modes[number]):
                pending.append((path, alias, left - 1))


def _follow(view: View, copy: Copy, path: str) -> list[SelectionItem]:
    """A source without wildcards, or one match of a wildcard: links are followed to what they mean."""
    target, links = view.resolve(path)
    if target is None:
        raise LookupError(path)
    items = [SelectionItem(link) for link in links]
    is_folder = stat.S_ISDIR(view.mode(target) or 0)
    if not copy.exclude or not is_folder or links:
        return [*items, SelectionItem(target, whole=is_folder)]
    return [*items, *_filtered(view, target, None, _patterns(copy.exclude))]


def _parents(view: View, copy: Copy, source: str) -> list[SelectionItem]:
    """``COPY --parents``: what is below the pivot ``/./`` goes by moby's patterns, and folders on the way count."""
    pivot, dot, pattern = source.partition("/./")
    if not dot:
        pivot, pattern = "", source
    base, links = view.resolve(clean("/" + pivot).strip("/"))
    items = [SelectionItem(link) for link in links]
    if _WILD.match(pivot) or "\\" in source:
        return [SelectionItem("", whole=True)]
    if base is None or not stat.S_ISDIR(view.mode(base) or 0):
        return items
    include = _patterns([clean("/" + pattern).strip("/") or "**"])
    return [*items, *_filtered(view, base, include, _patterns(copy.exclude))]


def _filtered(view: View, base: str, include: Patterns | None, exclude: Patterns) -> list[SelectionItem]:
    """Paths below ``base`` that ``include`` matches (``None``: all) and ``exclude`` does not, and the folders that hold
    any."""
    items = [SelectionItem(base)] if include is None else []
    judged: list[tuple[str, bool]] = []
    pending: list[tuple[str, str, State, State]] = [(base, "", (), ())]
    while pending:
        folder, relative, included, excluded = pending.pop()
        listing, numbers = view.visible(folder)
        for number in numbers:
            name, mode = listing.names[number], listing.modes[number]
            path, candidate = (f"{above}/{name}" if above else name for above in (folder, relative))
            wanted, more_in = include.judge(candidate, included) if include else (True, ())
            dropped, more_out = exclude.judge(candidate, excluded)
            take = wanted and not dropped
            judged.append((path, take))
            if stat.S_ISDIR(mode):
                pending.append((path, candidate, more_in, more_out))
            elif stat.S_ISLNK(mode) and (include is not None or take):
                items += _through(view, path, included=include is not None)
    holding: set[str] = set()
    for path, take in reversed(judged):  # what is in a folder comes behind it
        if take or path in holding:
            items.append(SelectionItem(path))
            holding.add(path.rpartition("/")[0])
    return items


def _through(view: View, path: str, *, included: bool) -> list[SelectionItem]:
    """What a link brings: a pattern may go through it, as BuildKit's copy does."""
    target, links = view.resolve(path)
    is_folder = target is not None and stat.S_ISDIR(view.mode(target) or 0)
    if not included and not is_folder:
        return []
    return [
        *(SelectionItem(link) for link in links),
        *([SelectionItem(target, whole=is_folder)] if target is not None else []),
    ]


def _patterns(texts: Iterable[str]) -> Patterns:
    """Patterns of flags. Unlike those of an ignore file they match nothing with a slash in front."""
    rules = filter(None, map(rule_of, texts))
    return Patterns(rule for rule in rules if not rule.text.removeprefix("!").lstrip(SPACE).startswith("/"))


def _wildcards(path: str, prefix: str, rest: str) -> wildcards.Matcher | None:
    """What a source with wildcards matches; ``rest`` begins with the first part that has one.

    BuildKit's copy takes what stands before as it is, its cache key is made of what the whole matches: they differ
    where a backslash stands there.
    """
    whole = _go_match(path)
    if "\\" not in prefix:
        return whole
    copied = _go_match(rest)
    if whole is None or copied is None:
        return None
    return lambda alias: whole(alias) or (alias.startswith(f"{prefix}/") and copied(alias[len(prefix) + 1 :]))


def _go_match(pattern: str) -> wildcards.Matcher | None:
    """Go's ``path.Match``; ``None`` for a pattern that is not well formed."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            out.append(wildcards.NAME)
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            bracket = _GO_CLASS.match(pattern, at)
            if not bracket:
                return None
            inner = bracket[0][2 if bracket[1] else 1 : -1]
            body = re.sub(r"\\(.)|([&|~\[])", lambda m: re.escape(m[1] or m[2]), inner, flags=re.DOTALL)
            out.append(f"[{bracket[1]}{body}]")
            at = bracket.end() - 1
        elif char == "\\":
            at += 1
            if at >= len(pattern):
                return None
            out.append(re.escape(pattern[at]))
        else:
            out.append(re.escape(char))
        at += 1
    try:
        return wildcards.matcher(out)
    except re.error:
        return None


def _missing(view: View, copy: Copy, path: str, where: str) -> UserError:
    context = f"the context {copy.context!r}" if copy.context else "the context"
    sentence = f"{copy.instruction}: {context} has no {path!r}"
    return UserError(sentence, where=f"{where}:{copy.line}", remedy=_hint(view, path))


def _hint(view: View, path: str) -> str:
    """Why a path cannot be found: what hides it, where its link points, or what it may have meant."""
    import difflib

    parts = path.split("/")
    for depth, name in enumerate(parts, 1):
        folder, part = "/".join(parts[: depth - 1]), "/".join(parts[:depth])
        if view.resolve(part)[0] is not None:
            continue
        base, _ = view.resolve(folder)
        if base is None or not stat.S_ISDIR(view.mode(base) or 0):
            return f"{folder!r} is not a folder"
        listing, numbers = view.visible(base)
        names = [listing.names[number] for number in numbers]
        if name in names:
            return f"the link {part!r} points to {view.tree.link(f'{base}/{name}'.lstrip('/'))!r}"
        if listing.find(name) >= 0:
            rule = view.ignore.hider(f"{base}/{name}".lstrip("/"))
            return view.ignore.told(rule, part) if rule else ""
        close = difflib.get_close_matches(name, names, 1, 0.6)
        if close:
            return f"did you mean {'/'.join([*parts[: depth - 1], close[0], *parts[depth:]])!r}?"
        return f"{folder or view.tree.root} holds {', '.join(map(repr, names[:5])) or 'nothing'}"
    return ""
