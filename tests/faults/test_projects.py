"""Projects of every construct of Dockerfiles and Compose files, at random: is each image what Compose makes of them?

``tests/differential/court.py`` says how that is judged; the grammars are ``dockerfiles.py``, ``declared.py`` and
``changes.py``. What was found once stands in ``found.py``: a failing project is made small, and printed as its row.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.conftest import docker
from tests.differential import changes
from tests.differential.court import Court, Verdict
from tests.differential.dice import Dice, smaller
from tests.differential.dockerfiles import OUTSIDE
from tests.differential.found import FOUND
from tests.differential.projects import Case
from tests.faults.conftest import Rounds

_FEW = 40
_TRIES = 150  # to make a failing project smaller


@pytest.fixture(scope="module")
def court(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    outside = ["--change=ONBUILD COPY f /onbuild/", "--change=ENV V=f", "--change=MAINTAINER me"]
    assert docker("import", *outside, "-", OUTSIDE, stdin=b"\0" * 10240).returncode == 0
    one = Court(tmp_path_factory.mktemp("court"))
    yield one
    one.close()


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.kind)
def test_what_was_found_stays_right(court: Court, case: Case) -> None:
    assert not [str(verdict) for verdict in court.try_case(case) if verdict.is_failure]


def test_projects_at_random(court: Court, rounds: Rounds) -> None:
    told: collections.Counter[str] = collections.Counter()
    wrong = []
    for number in rounds.of(few=_FEW, many=10**6):
        dice = Dice(chance=random.Random(f"{rounds.seed} {number}"))
        case, began = changes.case(dice), time.monotonic()
        verdicts = court.try_case(case)
        rounds.took.append(time.monotonic() - began)
        told.update({f"{one.what}: {case.kind}" for one in verdicts})
        if kinds := {one.what for one in verdicts if one.is_failure}:
            wrong.append(_smallest(court, dice.drawn, kinds))
    rounds.lines += [f"  {count} {what}" for what, count in told.most_common()]
    assert not wrong, "\n".join(wrong)


def _smallest(court: Court, drawn: Sequence[int], kinds: set[str]) -> str:
    """The smallest case that fails in one of these ways, as far as it is found in some tries."""
    known: dict[str, list[Verdict]] = {}
    smallest = ""

    def fails(numbers: Sequence[int]) -> bool:
        nonlocal smallest
        case = changes.case(Dice(numbers))
        row = str(case)
        if row in known or (known and len(known) >= _TRIES):
            return False
        known[row] = [one for one in court.try_case(case) if one.what in kinds]
        if known[row]:
            smallest = row
        return bool(known[row])

    smaller(drawn, fails) if fails(drawn) else None
    return "\n".join([*map(str, known.get(smallest, ["it did not fail again"])), smallest])
