"""Projects of every construct of Dockerfiles and Compose files, at random: is each image what Compose makes of them?

``tests/differential/court.py`` says how that is judged; the grammars are ``grammar.py``, ``declared.py`` and
``changes.py``. What was found once stands in ``found.py``: a failing project is made small, and printed as its row.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Sequence

import pytest

from tests.conftest import docker
from tests.differential import changes
from tests.differential.court import Court, Verdict
from tests.differential.dice import Dice, smaller
from tests.differential.found import FOUND, alone
from tests.differential.grammar import OUTSIDE
from tests.differential.projects import Case, Entry, File
from tests.faults.conftest import Rounds

_FEW = (8, 32)
_TRIES = 150  # to make a failing project smaller


@pytest.fixture(scope="module")
def court(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Court:
    # One without a layer would be more: a COPY of "o/*" from it, onto a named context that has none either, makes
    # BuildKit of Engine 26.1 panic, and its engine ends (docs/decisions.md).
    work = tmp_path_factory.mktemp("outside")
    (work / "f").write_text("outside")
    (work / "Dockerfile").write_text("FROM scratch\nMAINTAINER me\nENV V=f\nCOPY f /o/\nONBUILD COPY f /onbuild/\n")
    done = docker("buildx", "build", "--quiet", "--tag", OUTSIDE, str(work))
    assert done.returncode == 0, done.stderr
    return Court(tmp_path_factory.mktemp("court"))


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.kind)
def test_what_was_found_stays_right(court: Court, case: Case) -> None:
    assert not [str(verdict) for verdict in court.try_case(case) if verdict.is_failure]


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({"aUNIQ/f": "other"}, "o: b'0' 644"),
        ({"aUNIQ/f": File("f", 0o755)}, "for b'0' 755"),
        ({"aUNIQ/Dockerfile": "FROM scratch\nCOPY f /o\nENV A=b\n"}, "Env: "),
        ({"aUNIQ/f": None}, "it cannot be built"),
    ],
)
def test_what_we_overlook_is_seen(
    court: Court, monkeypatch: pytest.MonkeyPatch, change: dict[str, Entry | None], how: str
) -> None:
    monkeypatch.setattr("tests.differential.court._Ours.change", lambda *_: None)
    case = Case("overlooked", alone("FROM scratch\nCOPY f /o\n"), tree=change)
    verdict, *others = court.try_case(case)
    assert (verdict.image, verdict.what, verdict.action, others) == ("s0", "missed", "fresh", [])
    assert how in verdict.how


def test_a_case_is_made_smaller() -> None:
    """As far as it goes with a part of it that has to stay."""
    drawn = [random.Random(1).randint(0, 99) for _ in range(200)]
    assert smaller([*drawn, 7, 70], lambda numbers: 7 in numbers and 70 in numbers) == [7, 70]


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.all)])
def test_projects_at_random(court: Court, rounds: Rounds, part: int) -> None:
    told: collections.Counter[str] = collections.Counter()
    wrong = []
    for number in rounds.of(few=_FEW[part], many=10**6):
        dice = Dice(chance=random.Random(f"{rounds.seed} {2 * number + part}"))
        case, began = changes.case(dice), time.monotonic()
        verdicts = court.try_case(case)
        rounds.took.append(time.monotonic() - began)
        told.update({f"{one.what}: {case.kind}" for one in verdicts})
        if kinds := {one.what for one in verdicts if one.is_failure}:
            print(number, *verdicts, case, flush=True)  # the engine may be gone before the end
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
