"""Which values may the variables of a stage have, and so the words that use them?

Most have one. Some have several, where two versions of BuildKit expand differently, and some may have any: those that a
base sets whose environment is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from doit_images.core.base.errors import UserError

T = TypeVar("T", bound=Hashable)
# So many ways to expand one word are tried; a word that has more may be anything.
_TRIALS = 64


@dataclass(frozen=True)
class Possible(Generic[T]):
    """All that something may be: the likeliest first, and whether it may be something else as well (``more``)."""

    values: tuple[T, ...]
    more: bool = False

    def __or__(self, other: Possible[T]) -> Possible[T]:
        return Possible(tuple(dict.fromkeys((*self.values, *other.values))), self.more or other.more)

    @property
    def certain(self) -> bool:
        """Is it the same for every BuildKit?"""
        return len(self.values) == 1 and not self.more


_NOT_SET: Possible[str | None] = Possible((None,))


class Scope(Mapping[str, str]):
    """The variables of a stage. As a mapping it gives each its likeliest value.

    ``values`` are those that a base hands on (``None``: set to something that is not known); unless ``complete``, it
    may set others as well. ``asked`` are the names that were asked for.
    """

    def __init__(self, values: Mapping[str, str | None], *, complete: bool) -> None:
        self._known = {name: Possible((value,), more=value is None) for name, value in values.items()}
        self._others = Possible(_NOT_SET.values, more=not complete)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        value = self.possible(name).values[0]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def copy(self) -> Scope:
        """The same variables; what becomes of one scope from now on does not matter to the other."""
        copy = Scope({}, complete=True)
        copy._known, copy._others = dict(self._known), self._others
        return copy

    def cover(self, other: Scope) -> None:
        """What the other scope sets hides what this one has."""
        self._known |= other._known

    def possible(self, name: str) -> Possible[str | None]:
        """What a variable may be set to; ``None``: it is not set."""
        return self._known.get(name, self._others)

    def handed_on(self) -> dict[str, str | None]:
        """The values that an image hands on to its children; ``None`` for what is not certain."""
        return {
            name: possible.values[0] if possible.certain else None for name, possible in sorted(self._known.items())
        }

    def put(self, name: str, values: Iterable[str | None], *, more: bool = False) -> None:
        """Set a variable to one of these ``values``, the likeliest first."""
        self._known[name] = Possible(tuple(dict.fromkeys(values)) or _NOT_SET.values, more)

    def put_somewhere(self) -> None:
        """Some variable was set, and nobody knows which: from now on none is certain."""
        self._known = {name: Possible(possible.values, more=True) for name, possible in self._known.items()}
        self._others = Possible(self._others.values, more=True)

    def outcomes(self, expand: Callable[[Mapping[str, str]], T]) -> Possible[T]:
        """All that ``expand`` makes of the values that these variables may have. ``UserError`` is raised if every one
        of them leads to it."""
        outcomes: dict[T, None] = {}
        refused: UserError | None = None
        more = False
        pending: list[dict[str, str | None]] = [{}]
        for _ in range(_TRIALS):
            if not pending:
                break
            trial = _Trial(self, pending.pop())
            try:
                outcome = expand(trial)
            except UserError as error:
                refused = refused or error
            else:
                if not trial.open:
                    outcomes[outcome] = None
            for name in trial.open[:1]:
                possible = self.possible(name)
                more = more or possible.more
                pending += [{**trial.chosen, name: value} for value in reversed(possible.values)]
        if refused and not outcomes and not more and not pending:
            raise refused
        return Possible(tuple(outcomes), more or bool(pending))


class _Trial(Mapping[str, str]):
    """The variables of a scope with one value ``chosen`` for those that may have several; ``open`` are the names that
    were asked for and not chosen yet."""

    def __init__(self, scope: Scope, chosen: dict[str, str | None]) -> None:
        self.scope = scope
        self.chosen = chosen
        self.open: list[str] = []

    def __getitem__(self, name: str) -> str:
        self.scope.asked.add(name)
        if name not in self.chosen and not self.scope.possible(name).certain:
            self.open.append(name)
        value = self.chosen[name] if name in self.chosen else self.scope.possible(name).values[0]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.scope)

    def __len__(self) -> int:
        return len(self.scope)


def either(possibles: Sequence[Possible[T]]) -> Possible[T]:
    """All that any of these may be."""
    first, *others = possibles
    for other in others:
        first = first | other
    return first
