"""Which rules are there that make a Dockerfile better? Each is one function of a module of its own.

A rule gets the text of a Dockerfile and the steps that its image reaches, and gives patches, each of which stands for
itself, the best first; none once they are all applied. docs/advise-rules.md tells how one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from doit_images.advise import apt_lists, apt_update, cache_mounts, copied_twice, lists_apart, locks_first, order
from doit_images.advise.patch import Patch
from doit_images.advise.steps import Step


class Rule(NamedTuple):
    """A rule by the ``name`` that people pick it by."""

    name: str
    patches: Callable[[str, Sequence[Step]], Iterable[Patch]]


RULES = (
    Rule(apt_update.NAME, apt_update.patches),
    Rule(order.NAME, order.patches),
    Rule(locks_first.NAME, locks_first.patches),
    Rule(lists_apart.NAME, lists_apart.patches),
    Rule(cache_mounts.NAME, cache_mounts.patches),
    Rule(apt_lists.NAME, apt_lists.patches),
    Rule(copied_twice.NAME, copied_twice.patches),
)
"""In the order in which they are tried: each builds on what those before it made."""


def named(words: Iterable[str]) -> tuple[Rule, ...]:
    """The rules that these words name; all where they name none."""
    picked = set(words)
    return tuple(rule for rule in RULES if rule.name in picked) or RULES


def patches(rule: Rule, text: str, steps: Sequence[Step], seen: set[str]) -> Iterator[Patch]:
    """What a rule proposes, without what was ``seen`` already."""
    return (patch for patch in rule.patches(text, steps) if patch.text not in seen)
