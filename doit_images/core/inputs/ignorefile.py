"""Which paths does an ignore file hide?

The rules are moby's (``moby/patternmatcher`` and its ``ignorefile``), which BuildKit's client applies while it walks a
context. One file becomes a few regular expressions, so that a decision costs less than a microsecond; a pattern with
many wildcards is matched by itself (``wildcards``). A library's port takes seven times as long, and hides files that
moby shows where a pattern holds ``^``, a wildcard in brackets or a backslash before a letter: each of them a missed
rebuild (``docs/staleness.md``). The tests hold this module against that library, and against BuildKit itself.

A pattern that this module is not sure about hides nothing (or, after ``!``, shows everything): a file too many among
the inputs costs a build, a file too few costs a wrong image.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from doit_images.core.base import files
from doit_images.core.inputs import wildcards
from doit_images.core.inputs.wildcards import ANY, FOLDERS, NAME

# What Go's unicode.IsSpace calls white space; Python's str.strip() would also take \x1c to \x1f.
SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_CLASS = re.compile(r"\[\^?(?![-])[^\[\]\\^*?/]+(?<![-])\]")
_PYTHON_SET_SYNTAX = ("--", "&&", "||", "~~")
_VERY_MANY = 500  # patterns: one expression of them all takes long to make, and longer to match
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

    @cached_property
    def atoms(self) -> tuple[str, ...]:
        """The pieces of the regular expression of paths that this rule matches (none when it may match none)."""
        atoms = _translate(self.pattern)
        if atoms is not None:
            return atoms
        return ("(?s:.*)",) if self.shows else ()

    @cached_property
    def matches(self) -> wildcards.Matcher:
        """Tells whether this rule matches a path."""
        return wildcards.matcher(self.atoms) if self.atoms else lambda path: None

    @cached_property
    def parts(self) -> tuple[tuple[str, bool], ...]:
        """The names that the pattern wants from the context down, each with whether it is plain text; ends before one
        that may stand for several."""
        parts = []
        for part in self.pattern.split("/"):
            if "**" in part or "[" in part or "\\" in part:
                break
            parts.append((part, not _WILD.search(part)))
        return tuple(parts)

    @property
    def first(self) -> str:
        """The folder of the context in which all lies that this rule matches; "" if no name says so."""
        name, plain = self.parts[0] if self.parts and self.atoms else ("", False)
        return name if plain and _translate(self.pattern) is not None else ""

    def reaches_below(self, folder: str) -> bool:
        """Could this rule match something in a folder? Never wrongly no."""
        if _translate(self.pattern) is None:
            return True
        names = folder.split("/")
        for (part, plain), name in zip(self.parts, names, strict=False):
            if plain and part != name:
                return False
        whole = self.pattern.count("/") + 1
        return whole > len(names) or len(self.parts) < min(whole, len(names))


class _Group:
    """Neighbouring rules of one kind: the first that matches speaks for all, so one expression will do."""

    __slots__ = ("literals", "match", "others", "shows")

    def __init__(self, rules: list[Rule]) -> None:
        self.shows = rules[0].shows
        self.literals = frozenset(r.pattern for r in rules if not _WILD.search(r.pattern))
        wild = [rule for rule in rules if rule.atoms and rule.pattern not in self.literals]
        self.match: wildcards.Matcher | None = None
        self.others: list[wildcards.Matcher] = []
        if len(wild) > _VERY_MANY:
            self.match = wildcards.AnyOf((rule.atoms, partial(getattr, rule, "matches")) for rule in wild)
            return
        few = [rule for rule in wild if wildcards.few(rule.atoms)]
        if few:
            self.match = re.compile("|".join(f"(?:{''.join(rule.atoms)})" for rule in few)).fullmatch
        self.others = [rule.matches for rule in wild if not wildcards.few(rule.atoms)]

    def matches(self, path: str) -> bool:
        if path in self.literals or (self.match is not None and self.match(path)):
            return True
        return any(matches(path) for matches in self.others)


class Patterns:
    """An ordered list of rules, ready to be asked about every path of a walk from the top down."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self.groups: list[_Group] = []
        run: list[Rule] = []
        for rule in self.rules:
            if run and run[0].shows != rule.shows:
                self.groups.append(_Group(run))
                run = []
            run.append(rule)
        if run:
            self.groups.append(_Group(run))
        # By the first folder that they want, those that want one by name: the others may show something anywhere.
        self._shows: defaultdict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules:
            if rule.shows:
                self._shows[rule.first].append(rule)

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
        near = (self._shows[""], self._shows.get(folder.partition("/")[0], ()))
        return any(rule.reaches_below(folder) for rules in near for rule in rules)

    def hides(self, path: str) -> bool:
        """Is ``path`` hidden? Asked about alone, its folders included."""
        parts = path.split("/")
        hidden, state = False, State()
        for depth in range(1, len(parts) + 1):
            hidden, state = self.judge("/".join(parts[:depth]), state)
        return hidden

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
                matching = (rule for rule in self.rules if not rule.shows and rule.matches(part))
                culprit = next(matching, None)
        return culprit


class IgnoreFile(Patterns):
    """The rules of one ignore file; ``path`` is where it lies (``None``: there is none), ``text`` what it says.

    ``hidden`` is a folder of the context that is hidden whatever the file says, ``private`` a file that is unless the
    file shows it by its name; ``completed`` is the text with rules for them, where it needs any ("" where not).
    """

    def __init__(self, text: str = "", path: Path | None = None, hidden: str = "", private: str = "") -> None:
        self.text = text
        self.path = path
        self.completed = ""
        super().__init__(parse(text))
        more = [name for name in (hidden, "" if self.shows_by_name(private) else private) if name]
        if more := [name for name in more if self.hider(name) is None]:
            escaped = (re.sub(r"[][*?\\^]", r"\\\g<0>", name) for name in more)
            self.completed = text + "".join(f"\n/{name}" for name in escaped) + "\n"
            super().__init__(parse(self.completed))

    def told(self, rule: Rule, path: str) -> str:
        """That this rule hides a path, in words."""
        if rule.line > self.text.count("\n") + 1:
            return f"no build gets {path!r}: these tasks keep there what they remember"
        return f"{self.path}:{rule.line} hides {path!r} with {rule.text!r}"

    def shows_by_name(self, path: str) -> bool:
        """Whether a ``!`` rule shows this path by its name, not only by wildcards."""
        name = posixpath.basename(path)
        return any(
            rule.shows and posixpath.basename(rule.pattern) == name and rule.matches(path) for rule in self.rules
        )


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
    pattern = text.strip(SPACE)
    shows = pattern.startswith("!")
    if shows:
        pattern = pattern[1:].strip(SPACE)
    if not pattern:
        return None
    pattern = clean(pattern)
    if len(pattern) > 1 and pattern.startswith("/"):
        pattern = pattern[1:]
    return Rule(line, text.strip(SPACE), pattern, shows)


def effective(context: Path, dockerfile: Path | None, given: Collection[Path] = ()) -> Path | None:
    """The ignore file that a build reads: ``<Dockerfile>.dockerignore``, else ``.dockerignore`` of the context.

    ``dockerfile`` is ``None`` for an inline Dockerfile and for a named context, which have only the second. Files that
    are ``given`` count as there.
    """
    if dockerfile is not None:
        own = dockerfile.with_name(dockerfile.name + ".dockerignore")
        if own in given or _readable(own, own.parent):
            return own
    common = context / ".dockerignore"
    return common if common in given or _readable(common, context) else None


def load(path: Path | None, hidden: str = "", private: str = "", given: Mapping[Path, str] = {}) -> IgnoreFile:
    """The rules of an ignore file (none where there is none), with those for ``hidden`` and ``private``. A text that is
    ``given`` counts in place of the file's."""
    text = "" if not path else given[path] if path in given else files.text(path)
    return IgnoreFile(text, path, hidden, private)


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


@cache
def _translate(pattern: str) -> tuple[str, ...] | None:
    """The regular expression that moby makes of a cleaned pattern, in pieces; ``None`` for one better left alone."""
    out: list[str] = []
    kind = "exact"
    odd = False  # a character that means something in a regular expression only
    at, end = 0, len(pattern)
    while at < end:
        char, first, at = pattern[at], at == 0, at + 1
        if pattern.startswith("**", at - 1):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            if at >= end and kind == "exact":
                kind = "prefix"
            else:
                out.append(ANY if at >= end else FOLDERS)
                kind = "regex"
            if first:
                kind = "suffix"
        elif char in "*?":
            out.append(NAME if char == "*" else "[^/]")
            kind = "regex"
        elif char == "[":
            bracket = _CLASS.match(pattern, at - 1)
            if not bracket or any(syntax in bracket[0] for syntax in _PYTHON_SET_SYNTAX):
                return None
            out.append(bracket[0])
            at, kind = bracket.end(), "regex"
        elif char == "\\":
            if at >= end or pattern[at].isalnum():
                return None  # Go's regular expressions would read \d, \w, \b as something else
            out.append(re.escape(pattern[at]))
            at, kind = at + 1, "regex"
        elif char in "^]" or "\ud800" <= char <= "\udfff":
            odd = True
        else:
            out.append(char if char.isalnum() else re.escape(char))
    if kind == "regex":
        return None if odd or ("[" in pattern and not _compiles("".join(out))) else tuple(out)
    return _without_wildcards(pattern, kind)


def _without_wildcards(pattern: str, kind: str) -> tuple[str, ...]:
    """The same for a pattern with no wildcards but ``**`` at its end (``prefix``) or at its beginning (``suffix``)."""
    if kind == "prefix":
        return (re.escape(pattern[:-2]), "(?s:.*)")
    if kind == "suffix":
        rest = pattern[2:]
        return ("(?:(?s:.*)/)?", re.escape(rest[1:])) if rest.startswith("/") else ("(?s:.*)", re.escape(rest))
    return (re.escape(pattern),)


def _compiles(regex: str) -> bool:
    try:
        re.compile(regex)
    except re.error:
        return False
    return True
