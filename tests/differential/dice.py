"""Chance for grammars, and how a case that chance made is made smaller.

Hypothesis would do both, but most of what it draws is like what it drew before, which is dear where a case takes a
second. Its idea is kept: what is drawn is a list of numbers, of which fewer and lower ones make a smaller case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TypeVar

Thing = TypeVar("Thing")


class Dice:
    """Draws the ``given`` numbers first, then by ``chance``, or zeros without. ``drawn`` is what was drawn. Of several
    things zero is the first, which is to be the simplest."""

    def __init__(self, given: Sequence[int] = (), chance: Random | None = None) -> None:
        self._given, self._chance = given, chance
        self.drawn: list[int] = []

    def number(self, least: int, most: int) -> int:
        at, room = len(self.drawn), most - least
        if at < len(self._given):
            drawn = min(self._given[at], room)
        else:
            drawn = self._chance.randint(0, room) if self._chance else 0
        self.drawn.append(drawn)
        return least + drawn

    def pick(self, things: Sequence[Thing]) -> Thing:
        return things[self.number(0, len(things) - 1)]

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) >= 100 - percent

    def some(self, things: Sequence[Thing], least: int, most: int) -> list[Thing]:
        """So many different things, in any order."""
        left, found = list(things), []
        for _ in range(min(self.number(least, most), len(left))):
            found.append(left.pop(self.number(0, len(left) - 1)))
        return found

    def weighed(self, things: Sequence[tuple[int, Thing]]) -> Thing:
        """One thing, each as often as its number says."""
        left = self.number(1, sum(weight for weight, _ in things))
        for weight, thing in things:
            left -= weight
            if left <= 0:
                return thing
        raise ValueError("no thing has a weight")


def smaller(drawn: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """The fewest and lowest numbers that are found with which it still ``fails``."""
    best, before = list(drawn), None
    while best != before:
        before = best
        best = _tried(best, fails)
    return best


def _tried(best: list[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    for size in (32, 16, 8, 4, 2, 1):
        at = len(best)
        while at > 0:
            at = min(at, len(best)) - size
            for less in _less(best, max(at, 0), size):
                if less != best and fails(less):
                    best = less
                    break
    return best


def _less(numbers: list[int], at: int, size: int) -> Iterator[list[int]]:
    yield numbers[:at] + numbers[at + size :]
    yield numbers[:at] + [0] * len(numbers[at : at + size]) + numbers[at + size :]
    if size == 1 and numbers[at] > 1:
        yield [*numbers[:at], numbers[at] // 2, *numbers[at + 1 :]]
