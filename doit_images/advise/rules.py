"""Which rules are there that make a Dockerfile better? Each is one function of a module of its own.

A rule gets the text of a Dockerfile and the steps that its image reaches, and gives patches, each of which stands for
itself, the best first; none once they are all applied. One of the whole project gets that (``whole``), and says of each
patch which images it is about, the one first whose Dockerfile it is. docs/advise-rules.md tells how one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from doit_images.advise import (
    apt_lists,
    apt_update,
    cache_mounts,
    compilers_out,
    copied_twice,
    heavy_packages,
    ignore_file,
    lists_apart,
    locks_first,
    order,
    shared_base,
)
from doit_images.advise.patch import Patch
from doit_images.advise.steps import Step
from doit_images.advise.whole import Whole


class Rule(NamedTuple):
    """A rule by the ``name`` that people pick it by. One that ``weighs`` is also told, when it asks, the bytes of the
    packages that are installed in the image."""

    name: str
    patches: Callable[..., Iterable[Patch]]
    weighs: bool = False


class ProjectRule(NamedTuple):
    """A rule about more than one Dockerfile, by its ``name``."""

    name: str
    patches: Callable[[Whole], Iterable[tuple[Sequence[str], Patch]]]


RULES = (
    Rule(apt_update.NAME, apt_update.patches),
    Rule(order.NAME, order.patches),
    Rule(locks_first.NAME, locks_first.patches),
    Rule(lists_apart.NAME, lists_apart.patches),
    Rule(cache_mounts.NAME, cache_mounts.patches),
    Rule(apt_lists.NAME, apt_lists.patches),
    Rule(compilers_out.NAME, compilers_out.patches),
    Rule(heavy_packages.NAME, heavy_packages.patches, weighs=True),
    Rule(copied_twice.NAME, copied_twice.patches),
)
"""In the order in which they are tried: each builds on what those before it made."""
PROJECT_RULES: tuple[ProjectRule, ...] = (
    ProjectRule(ignore_file.NAME, ignore_file.patches),
    ProjectRule(shared_base.NAME, shared_base.patches),
)
"""The same, tried after all of those."""
NAMES = frozenset([*(rule.name for rule in RULES), *(rule.name for rule in PROJECT_RULES)])
"""The names of all rules."""


def named(words: Iterable[str]) -> tuple[tuple[Rule, ...], tuple[ProjectRule, ...]]:
    """The rules that these words name, of Dockerfiles and of projects; all where they name none."""
    picked = NAMES.intersection(words) or NAMES
    own = tuple(rule for rule in RULES if rule.name in picked)
    return own, tuple(rule for rule in PROJECT_RULES if rule.name in picked)


def patches(
    rule: Rule,
    text: str,
    steps: Sequence[Step],
    seen: set[str],
    sizes: Callable[[], Mapping[str, int]] = dict[str, int],
) -> Iterator[Patch]:
    """What a rule proposes, without what was ``seen`` already; ``sizes`` says what packages weigh."""
    found = rule.patches(text, steps, sizes) if rule.weighs else rule.patches(text, steps)
    return (patch for patch in found if patch.text not in seen)
