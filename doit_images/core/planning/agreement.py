"""Machines built different images from the same inputs: whose counts here, and whose in the shared registry?

A step such as ``apt-get upgrade`` gives different bytes each time, and what is built on one result cannot be used on
the other. So all machines follow the same rules, and results do not replace each other to and fro:

* Of two results, the one that was rebuilt on purpose later counts (``rebuild``); without such a rebuild, the one that
  was in the shared registry first.
* A machine that holds another result takes the shared one, as soon as that makes no fresh image stale.
* A result that was built on a parent other than the shared one is not pushed.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from doit_images.core.engine.client import LocalImage
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action, Decision, rebuilt

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage

Offers = Mapping[str, "SharedImage"]
Look = Callable[[Collection[str]], Offers]
ContentOf = Callable[[ImageInputs, LocalImage], str]
Planned = Callable[[Offers, Collection[str]], dict[str, Decision]]


class Agreement:
    """The plan with what the shared registry holds. ``own`` is the plan without it. ``planned`` makes a plan from
    offers and the names of images whose shared result counts. ``look`` asks the registry about images by name.
    ``content_of`` gives the content of an image here."""

    def __init__(self, own: Mapping[str, Decision], planned: Planned, look: Look, content_of: ContentOf) -> None:
        self._own, self._planned, self._look, self._content_of = own, planned, look, content_of
        self._offers: dict[str, SharedImage] = {}
        self._asked: set[str] = set()

    def reach(self, ask: Collection[str], *, whole: bool) -> tuple[dict[str, Decision], frozenset[str]]:
        """The decisions, and the images whose shared result takes the place of one here.

        The registry is asked about what would be built, the ancestors of that, and the images in ``ask``; and, if this
        is the ``whole`` project, about what stands on ancestors that turn out to be others than the shared ones: only
        then can it be said that taking those costs nothing.
        """
        own = self._own
        builds = _doing(Action.BUILD, own)
        decided = self._learn({*builds, *_ancestors(builds, own), *ask})
        while more := _doing(Action.BUILD, decided) - self._asked:  # what stands on an image that was rebuilt elsewhere
            decided = self._learn(more)
        if whole:
            above = _ancestors(_doing(Action.BUILD, decided), own)
            apart = [name for name in own if name in above and self._differs(decided[name])]
            if apart:
                decided = self._learn({name for name in own if _ancestors([name], own).intersection(apart)})
            decided = self._take(apart, decided)
        here = _doing(Action.FRESH, own) | _doing(Action.RETAG, own)
        return dict(decided), frozenset(here & _doing(Action.PULL, decided))

    def _learn(self, names: Collection[str]) -> dict[str, Decision]:
        self._offers.update(self._look([name for name in self._own if name in names and name not in self._asked]))
        self._asked.update(names)
        return self._planned(self._offers, ())

    def _take(self, apart: Sequence[str], decided: dict[str, Decision]) -> dict[str, Decision]:
        """The plan in which shared results take the place of those here, as far as that makes nothing to be built."""
        taken: set[str] = set()
        for name in apart:
            trial = self._planned(self._offers, {*taken, name})
            if trial[name].action == Action.PULL and _doing(Action.BUILD, trial) <= _doing(Action.BUILD, decided):
                taken.add(name)
                decided = trial
        return decided

    def _differs(self, decision: Decision) -> bool:
        offer = self._offers.get(decision.name)
        return bool(
            offer
            and decision.local_image
            and decision.action in (Action.FRESH, Action.RETAG)
            and offer.content != self._content_of(decision.inputs, decision.local_image)
        )


def remembered(own: Mapping[str, Decision], planned: Planned, recall: Look) -> dict[str, Decision]:
    """The plan by what earlier runs knew of images that are not here, if the images built on them are here; else an
    empty plan. Before anything is built or pulled, the registry itself is asked."""
    offers = recall([name for name in _doing(Action.BUILD, own) if own[name].local_image is None])
    decided = planned(offers, ()) if offers else {}
    here = _doing(Action.FRESH, decided) | _doing(Action.RETAG, decided)
    spared = _doing(Action.PULL, decided) <= _ancestors(here, decided) and not _doing(Action.BUILD, decided)
    return decided if spared else {}


def _doing(action: Action, decided: Mapping[str, Decision]) -> set[str]:
    return {name for name, decision in decided.items() if decision.action == action}


def _ancestors(names: Iterable[str], decided: Mapping[str, Decision]) -> set[str]:
    ancestors: set[str] = set()
    todo = list(names)
    while todo:
        for parent in decided[todo.pop()].inputs.parents.values():
            if parent not in ancestors:
                ancestors.add(parent)
                todo.append(parent)
    return ancestors


class Resolution(StrEnum):
    """What becomes of an image that was built here."""

    PUSH = "push"
    KEEP = "keep"
    """It stays on this machine alone."""
    TAKE = "take"
    """The shared one takes its place."""


def verdict(
    own: Mapping[str, str], content: Callable[[], str], shared: SharedImage | None, *, on_shared_parents: bool | None
) -> Resolution:
    """What becomes of an image that was built here, with its labels ``own``.

    ``shared`` is what the registry holds under its fingerprint for its platform; ``on_shared_parents`` whether the
    parents that it was built on are those that the registry holds, None if that cannot be known.
    """
    if (
        shared is None or shared.labels.get(INPUT_DIGEST) != own[INPUT_DIGEST]
    ):  # nothing, or something that nobody could use
        return Resolution.KEEP if on_shared_parents is False else Resolution.PUSH
    if shared.labels.get(PARENTS, "") != own[PARENTS]:
        return Resolution.PUSH if on_shared_parents else Resolution.KEEP
    if shared.content == content():
        return Resolution.KEEP
    return Resolution.PUSH if rebuilt(own) > rebuilt(shared.labels) else Resolution.TAKE
