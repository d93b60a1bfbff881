"""How long it will take."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.planning.forecast import remaining_path, urgency, wall_seconds
from tests.core.planning.test_plan import made

STACK: dict[str, list[str]] = {"base": [], "ml": ["base"], "auth": ["base"], "memory": ["ml"], "redis": []}
SECONDS = {"base": 4.0, "ml": 3.0, "auth": 1.0, "memory": 2.0, "redis": 5.0}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, list[str]], dict[str, float]]:
    count = draw(st.integers(1, 8))
    parents = {
        str(number): [str(p) for p in draw(st.sets(st.integers(0, number - 1), max_size=3))] if number else []
        for number in range(count)
    }
    seconds = {name: float(draw(st.integers(0, 9))) for name in parents}
    return parents, seconds


def test_what_others_wait_for_longest_is_most_urgent() -> None:
    """A second where nobody knows how long it takes, and none for what another service builds."""
    declared = {name: made(name, parents={name: name for name in parents}) for name, parents in STACK.items()}
    copy = declared["redis"]
    declared["redis"] = replace(copy, image=replace(copy.image, duplicate_of="memory"))
    known = {"base": 4.0, "ml": 3.0, "redis": 5.0}
    assert urgency(declared, known) == {"base": 8.0, "ml": 4.0, "auth": 1.0, "memory": 1.0, "redis": 0.0}


def test_the_stack() -> None:
    assert remaining_path(STACK, SECONDS) == {"base": 9.0, "ml": 5.0, "auth": 1.0, "memory": 2.0, "redis": 5.0}
    assert wall_seconds(STACK, SECONDS, 4) == 9.0
    assert wall_seconds(STACK, SECONDS, 1) == 15.0
    assert wall_seconds(STACK, {"auth": 1.0}, 4) == 1.0


@given(graphs(), st.integers(1, 4))
def test_between_the_critical_path_and_one_after_the_other(
    graph: tuple[dict[str, list[str]], dict[str, float]], workers: int
) -> None:
    parents, seconds = graph
    wall = wall_seconds(parents, seconds, workers)
    assert max(remaining_path(parents, seconds).values()) <= wall <= sum(seconds.values())
    assert wall >= sum(seconds.values()) / workers


@given(graphs())
def test_one_worker_does_everything_in_turn(graph: tuple[dict[str, list[str]], dict[str, float]]) -> None:
    parents, seconds = graph
    assert wall_seconds(parents, seconds, 1) == sum(seconds.values())


def test_what_is_not_built_takes_no_time() -> None:
    parents: dict[str, list[str]] = {"fresh": [], "built": ["fresh"]}
    assert remaining_path(parents, {"built": 2.0}) == {"fresh": 2.0, "built": 2.0}
    assert remaining_path(parents, {}) == {"fresh": 0.0, "built": 0.0}


def test_who_has_the_longest_way_after_it_goes_first() -> None:
    """Of more images that are ready than there are workers, at the start and after a parent."""
    seconds = dict.fromkeys(("a", "b", "long", "end"), 3.0)
    at_once: dict[str, list[str]] = {"a": [], "b": [], "long": [], "end": ["long"]}
    assert wall_seconds(at_once, seconds, 2) == 6.0
    after = {"root": [], "a": ["root"], "b": ["root"], "long": ["root"], "end": ["long"]}
    assert wall_seconds(after, {**seconds, "root": 1.0}, 2) == 7.0
