"""Which paths does an ignore file hide?

The rules are moby's (``moby/patternmatcher`` and its ``ignorefile``), which BuildKit's client applies while it walks a
context. One file becomes a few regular expressions, so that a decision costs less than a microsecond. A library's port
takes seven times as long, and hides files that moby shows where a pattern holds ``^``, a wildcard in brackets or a
backslash before a letter: each of them a missed rebuild (``docs/staleness.md``). The tests hold this module against
that library, and against BuildKit itself.

A pattern that this module is not sure about hides nothing (or, after ``!``, shows everything): a file too many among
the inputs costs a build, a file too few costs a wrong image.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What Go's unicode.IsSpace calls white space; Python's str.strip() would also take \x1c to \x1f.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_CLASS = re.compile(r"\[\^?(?![-])[^\[\]\\^*?/]+(?<![-])\]")
_PYTHON_SET_SYNTAX = ("--", "&&", "||", "~~")
_WILD = re.compile(r"[*?\[\\]")

State = tuple[bool, ...]
"""What is known about a folder: for each group of rules, whether it matched the folder or one above it."""


@dataclass(frozen=True)
class Rule:
    """One pattern: its ``line`` and ``text`` in the file, cleaned ``pattern``, and whether ``!`` stood before it."""

    line: int
    text: str
    pattern: str
    shows: bool

    @property
    def regex(self) -> str:
        """The regular expression of paths that this rule matches (``""`` when it may match none)."""
        found = _translate(self.pattern)
        if found is not None:
            return found
        return "(?s:.*)" if self.shows else ""


class _Group:
    """Neighbouring rules of one kind: the first that matches speaks for all, so one expression will do."""

    __slots__ = ("literals", "match", "shows")

    def __init__(self, shows: bool, rules: list[Rule]) -> None:
        self.shows = shows
        self.literals = frozenset(r.pattern for r in rules if not _WILD.search(r.pattern))
        regexes = [r.regex for r in rules if r.pattern not in self.literals]
        joined = "|".join(f"(?:{regex})" for regex in regexes if regex)
        self.match = re.compile(joined).fullmatch if joined else None

    def matches(self, path: str) -> bool:
        return path in self.literals or (self.match is not None and self.match(path) is not None)


class Patterns:
    """An ordered list of rules, ready to be asked about every path of a walk from the top down."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self.groups: list[_Group] = []
        run: list[Rule] = []
        for rule in self.rules:
            if run and run[0].shows != rule.shows:
                self.groups.append(_Group(run[0].shows, run))
                run = []
            run.append(rule)
        if run:
            self.groups.append(_Group(run[0].shows, run))
        self._shows = [rule for rule in self.rules if rule.shows]

    def judge(self, path: str, above: State) -> tuple[bool, State]:
        """Is ``path`` hidden, and what to pass on for what lies in it; ``above`` is its folder's state.

        ``path`` is relative to the context, with ``/``; the state of the context itself is ``()``.
        """
        hidden = False
        state = []
        for number, group in enumerate(self.groups):
            match = above[number] if above else False
            if not match and group.shows == hidden:
                match = group.matches(path)
            state.append(match)
            if match:
                hidden = not group.shows
        return hidden, tuple(state)

    def may_show_below(self, folder: str) -> bool:
        """Could a ``!`` rule show something in this hidden folder? Never wrongly no."""
        return any(_reaches_below(rule.pattern, folder) for rule in self._shows)

    def hider(self, path: str) -> Rule | None:
        """The rule that hides ``path`` (asked about alone, its folders included); ``None`` if it is visible."""
        parts = path.split("/")
        state: State = ()
        culprit: Rule | None = None
        for depth in range(1, len(parts) + 1):
            part = "/".join(parts[:depth])
            hidden, state = self.judge(part, state)
            if not hidden:
                culprit = None
            elif culprit is None:
                matching = (r for r in self.rules if not r.shows and r.regex and re.fullmatch(r.regex, part))
                culprit = next(matching, None)
        return culprit


class IgnoreFile(Patterns):
    """The rules of one ignore file; ``path`` is where it lies (``None``: there is none), ``text`` what it says.

    ``hidden`` is a folder of the context that is hidden whatever the file says; ``completed`` is the text with a rule
    for that, where it needs one ("" where not).
    """

    def __init__(self, text: str = "", path: Path | None = None, hidden: str = "") -> None:
        self.text = text
        self.path = path
        self.completed = ""
        super().__init__(parse(text))
        if hidden and self.hider(hidden) is None:
            escaped = re.sub(r"[][*?\\^]", r"\\\g<0>", hidden)
            self.completed = f"{text}\n/{escaped}\n"
            super().__init__(parse(self.completed))


def parse(text: str) -> list[Rule]:
    """The rules of an ignore file, as moby's ``ignorefile.ReadAll`` and ``patternmatcher.New`` read them."""
    rules = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.startswith("#"):
            continue
        rule = rule_of(line, number)
        if rule:
            rules.append(rule)
    return rules


def rule_of(text: str, line: int = 0) -> Rule | None:
    """One pattern as a rule; ``None`` when nothing is left of it."""
    pattern = text.strip(_SPACE)
    shows = pattern.startswith("!")
    if shows:
        pattern = pattern[1:].strip(_SPACE)
    if not pattern:
        return None
    pattern = clean(pattern)
    if len(pattern) > 1 and pattern.startswith("/"):
        pattern = pattern[1:]
    return Rule(line, text.strip(_SPACE), pattern, shows)


def effective(context: Path, dockerfile: Path | None) -> Path | None:
    """The ignore file that a build reads: ``<Dockerfile>.dockerignore``, else ``.dockerignore`` of the context.

    ``dockerfile`` is ``None`` for an inline Dockerfile and for a named context, which have only the second.
    """
    if dockerfile is not None:
        own = dockerfile.with_name(dockerfile.name + ".dockerignore")
        if _readable(own, own.parent):
            return own
    common = context / ".dockerignore"
    return common if _readable(common, context) else None


def load(context: Path, dockerfile: Path | None, hidden: str = "") -> IgnoreFile:
    """The rules in force for a context, and that ``hidden`` is; an empty set of rules where there is no ignore file."""
    path = effective(context, dockerfile)
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path else ""
    return IgnoreFile(text, path, hidden)


def clean(path: str) -> str:
    """Go's ``path.Clean``: the shortest equal path."""
    return posixpath.normpath(re.sub("/+", "/", path))


def _readable(path: Path, root: Path) -> bool:
    """BuildKit follows a link to an ignore file inside its folder only; another link counts as no file."""
    if not path.is_file():
        return False
    if not path.is_symlink():
        return True
    return not path.readlink().is_absolute() and path.resolve().is_relative_to(root.resolve())


def _reaches_below(pattern: str, folder: str) -> bool:
    parts = pattern.split("/")
    depth = 0
    for depth, name in enumerate(folder.split("/"), 1):
        if depth > len(parts):
            return False
        part = parts[depth - 1]
        if "**" in part or "[" in part or "\\" in part or _translate(pattern) is None:
            return True
        if not _WILD.search(part) and part != name:
            return False
    return len(parts) > depth


def _translate(pattern: str) -> str | None:
    """The regular expression that moby makes of a cleaned pattern; ``None`` for one better left alone."""
    out: list[str] = []
    kind = "exact"
    odd = False  # a character that means something in a regular expression only
    at, end = 0, len(pattern)
    while at < end:
        first = at == 0
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            if at >= end and kind == "exact":
                kind = "prefix"
            else:
                out.append(".*" if at >= end else "(?:.*/)?")
                kind = "regex"
            if first:
                kind = "suffix"
        elif char in "*?":
            out.append("[^/]*" if char == "*" else "[^/]")
            kind = "regex"
        elif char == "[":
            found = _CLASS.match(pattern, at - 1)
            if not found or any(syntax in found[0] for syntax in _PYTHON_SET_SYNTAX):
                return None
            out.append(found[0])
            at = found.end()
            kind = "regex"
        elif char == "\\":
            if at >= end or pattern[at].isalnum():
                return None  # Go's regular expressions would read \d, \w, \b as something else
            out.append(re.escape(pattern[at]))
            at += 1
            kind = "regex"
        elif char in "^]" or "\ud800" <= char <= "\udfff":
            odd = True
        else:
            out.append(re.escape(char))
    if kind == "regex":
        regex = "".join(out)
        return None if odd or not _compiles(regex) else regex
    if kind == "prefix":
        return re.escape(pattern[:-2]) + "(?s:.*)"
    if kind == "suffix":
        rest = pattern[2:]
        return f"(?:(?s:.*)/)?{re.escape(rest[1:])}" if rest.startswith("/") else f"(?s:.*){re.escape(rest)}"
    return re.escape(pattern)


def _compiles(regex: str) -> bool:
    try:
        re.compile(regex)
    except re.error:
        return False
    return True
