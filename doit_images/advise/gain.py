"""What would patches have saved over the commits of late? From git and from the history of builds; nothing is built.

Today's Dockerfile and the patched one are each replayed over the same commits (``replay``), as if every one of these
had had it. A step takes as long as the last builds say; one whose text a patch changes, as long as it took before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from doit_images.advise.durations import seconds_of
from doit_images.advise.replay import Cost, aligned, costs
from doit_images.ci.commits import WorkingCopy
from doit_images.core.history.store import Build
from doit_images.core.inputs.resolver import NO_TEXTS


class Work(NamedTuple):
    """What ran: how many ``RUN`` steps, and the seconds that they took, as far as these are known."""

    runs: int
    seconds: float


@dataclass(frozen=True)
class Gain:
    """The work over so many ``commits`` without and with the patches, and for how many of the steps that ran no build
    tells how long they take. ``lines`` are the ``RUN`` steps without and with them."""

    commits: int
    before: Work
    after: Work
    unknown: int
    lines: tuple[Sequence[Cost], Sequence[Cost]] = field(default=((), ()), compare=False)


def gains(
    copy: WorkingCopy,
    commits: int,
    texts: Mapping[str, tuple[str, str]],
    builds: Callable[[str], Sequence[Build]],
    ignores: Mapping[Path, str] = NO_TEXTS,
) -> dict[str, Gain]:
    """What the work on each image would have been over so many commits, by its Dockerfile's text without and with the
    patches, which also make these of ignore files; ``builds`` are the last of an image. Raises ``UserError`` as
    ``replay.costs``."""
    before, there = costs(copy, commits, {name: one for name, (one, _) in texts.items()})
    after, _ = costs(copy, commits, {name: other for name, (_, other) in texts.items()}, ignores)
    return {name: _gain(there, _of(name, before), _of(name, after), builds(name)) for name in texts}


def _of(name: str, found: Sequence[Cost]) -> list[Cost]:
    return [cost for cost in found if cost.image == name]


def _gain(commits: int, one: Sequence[Cost], other: Sequence[Cost], builds: Sequence[Build]) -> Gain:
    for cost in one:
        cost.seconds = seconds_of(cost.step, builds)
    known = {(cost.step.stage, cost.step.text): cost.seconds for cost in one}
    for at, same in aligned([cost.step for cost in other], [cost.step for cost in one]).items():
        other[at].seconds = one[same].seconds
    for cost in other:  # it may stand elsewhere
        cost.seconds = known.get((cost.step.stage, cost.step.text), cost.seconds)
    ran = [cost for cost in (*one, *other) if cost.step.instruction == "RUN" and cost.runs]
    unknown = {cost.step.text for cost in ran if cost.seconds is None}
    before, after = ([cost for cost in lines if cost.step.instruction == "RUN"] for lines in (one, other))
    return Gain(commits, _work(before), _work(after), len(unknown), (before, after))


def _work(ran: Sequence[Cost]) -> Work:
    return Work(sum(cost.runs for cost in ran), sum(cost.runs * (cost.seconds or 0.0) for cost in ran))
