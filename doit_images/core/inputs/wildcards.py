"""Does a path match a pattern with wildcards, in a time that no pattern can blow up?

A pattern comes as *atoms*, pieces of a regular expression: single characters, ``[^/]`` and classes, and the loops
``[^/]*``, ``.*`` and ``(?:.*/)?``. With a few loops Python's own engine is the fastest; it tries the ways in which
loops may share a path one after the other, and their number grows with a power of the path's length for each loop. With
more of them all ways are followed at once, as Go's engine does, which BuildKit uses.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Protocol

ANY, NAME, FOLDERS = ".*", "[^/]*", "(?:.*/)?"
"""The loops: anything (but a newline), anything within a name, any folders or none."""

_FEW = 3  # loops; more than these and the number of ways is too large
_PIECE = 3
_SPECIAL = re.compile(r"[.*+?^$(){}|\[\]\\]")
_KEPT = 10_000  # steps of one automaton that are remembered


class Matcher(Protocol):
    """What tells whether a whole path matches."""

    def __call__(self, path: str, /) -> object:
        """Something true if the whole of ``path`` matches."""


def few(atoms: Sequence[str]) -> bool:
    """Whether so few atoms are loops that one regular expression will do."""
    return sum(atom in (ANY, NAME, FOLDERS) for atom in atoms) <= _FEW


def matcher(atoms: Sequence[str]) -> Matcher:
    """What matches whole paths against these atoms; ``re.error`` if one of them is no regular expression."""
    return re.compile("".join(atoms)).fullmatch if few(atoms) else _Automaton(atoms)


class AnyOf:
    """Tells whether any of very many patterns matches a path, without trying each: one can match only where all the
    text stands that it wants, and is looked at only where the rarest three characters of that do. Each is its atoms,
    and what gives its matcher."""

    def __init__(self, patterns: Iterable[tuple[Sequence[str], Callable[[], Matcher]]]) -> None:
        wanted = [(_literals(atoms), matches) for atoms, matches in patterns]
        pieces = [_pieces(max(literals, key=len, default="")) for literals, _ in wanted]
        count = Counter(chain.from_iterable(pieces))
        self._by_piece: defaultdict[str, list[_Wanted]] = defaultdict(list)
        for in_literal, pattern in zip(pieces, wanted, strict=True):
            self._by_piece[min(in_literal, key=count.__getitem__)].append(pattern)
        self._lengths = sorted({len(piece) for piece in self._by_piece})

    def __call__(self, path: str, /) -> bool:
        """Whether any of them matches the whole of ``path``."""
        pieces = {path[at : at + length] for length in self._lengths for at in range(len(path) - length + 1)}
        return any(
            all(literal in path for literal in literals) and matches()(path)
            for piece in pieces & self._by_piece.keys()
            for literals, matches in self._by_piece[piece]
        )


_Wanted = tuple[list[str], Callable[[], Matcher]]


def _pieces(text: str) -> list[str]:
    """All three characters of a text that follow each other; the text, where it has fewer."""
    return [text[at : at + _PIECE] for at in range(max(1, len(text) - _PIECE + 1))]


def _literals(atoms: Sequence[str]) -> list[str]:
    """The text that has to stand in a path for these atoms to match."""
    return [text for text in "".join(map(_literal, atoms)).split("\0") if text]


@cache
def _literal(atom: str) -> str:
    """The text that an atom stands for; NUL, which no path holds, where it stands for several."""
    text = re.sub(r"\\(.)", r"\1", atom, flags=re.DOTALL)
    return text if atom in (text, re.escape(text)) and not _SPECIAL.search(text if atom == text else "") else "\0"


class _Automaton:
    """All ways through the atoms at once: a set of places, as the bits of a number, moves on with each character.

    Place ``n`` is before step ``n``. A step takes one character that its expression matches and either goes on or,
    in a loop, stays; ``skip`` are the places that may be left without a character, with how far that leads.
    """

    def __init__(self, atoms: Sequence[str]) -> None:
        self._steps: list[re.Pattern[str]] = []
        self._stays = 0
        self._skip: list[tuple[int, int]] = []
        for atom in atoms:
            if atom == FOLDERS:
                # A place of its own to begin at: whoever is in the loop must find the slash.
                self._skip += [(len(self._steps), 3), (len(self._steps), 1)]
                self._steps.append(re.compile("(?!)"))
                self._loop(".")
                self._steps.append(re.compile("/"))
            elif atom in (ANY, NAME):
                self._loop("." if atom == ANY else "[^/]")
            else:
                self._steps.append(re.compile(atom))
        self._end = 1 << len(self._steps)
        self._begin = self._with_skips(1)
        self._known: dict[tuple[int, str], int] = {}

    def _loop(self, of: str) -> None:
        here = len(self._steps)
        self._stays |= 1 << here
        self._skip.append((here, 1))
        self._steps.append(re.compile(of))

    def __call__(self, path: str, /) -> bool:
        places = self._begin
        for char in path:
            after = self._known.get((places, char))
            if after is None:
                after = self._after(places, char)
            if not after:
                return False
            places = after
        return bool(places & self._end)

    def _after(self, places: int, char: str) -> int:
        taking = sum(1 << at for at, step in enumerate(self._steps) if places >> at & 1 and step.fullmatch(char))
        after = self._with_skips((taking & ~self._stays) << 1 | (taking & self._stays))
        if len(self._known) < _KEPT:
            self._known[places, char] = after
        return after

    def _with_skips(self, places: int) -> int:
        for at, far in self._skip:  # from left to right, and every skip leads to the right
            if places >> at & 1:
                places |= 1 << at + far
        return places
