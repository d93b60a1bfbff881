"""The work on one image, walked through without an engine: which step follows which, whatever others do meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.building.steps import Right, Step, Work, next_step
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import SharedRef
from tests.core.planning.test_plan import made

DECISIONS = {action: Decision("app", action, (), made("app")) for action in Action}
LEASED = SharedRef("x/app:1", "fingerprint", "linux/amd64")


def decided(action: Action, *held: Right, **more: object) -> Work:
    return replace(Work(decision=DECISIONS[action], held=frozenset(held)), **more)


@pytest.mark.parametrize(
    ("work", "step"),
    [
        (Work(), Step.DECIDE),
        (decided(Action.FRESH), Step.KEEP),
        (decided(Action.RETAG), Step.TAG),
        (decided(Action.PULL), Step.PULL),
        (decided(Action.BROKEN), Step.REFUSE),
        (decided(Action.BUILD), Step.WAIT_FOR_RUN),
        (decided(Action.BUILD, Right.BUILD_LOCK), Step.WAIT_FOR_CAPACITY),
        (decided(Action.BUILD, Right.BUILD_LOCK, Right.CAPACITY), Step.BUILD),
        (decided(Action.BUILD, Right.BUILD_LOCK, leased=LEASED), Step.WAIT_FOR_MACHINE),
        (decided(Action.BUILD, Right.BUILD_LOCK, Right.LEASE, leased=LEASED), Step.CAPACITY_IF_FREE),
        (decided(Action.BUILD, Right.BUILD_LOCK, leased=LEASED, crowded=True), Step.WAIT_FOR_CAPACITY),
        (decided(Action.BUILD, Right.BUILD_LOCK, Right.CAPACITY, leased=LEASED, crowded=True), Step.LEASE_IF_FREE),
        (decided(Action.BUILD, *Right, leased=LEASED), Step.BUILD),
        (decided(Action.BUILD, rebuild=True, leased=LEASED), Step.WAIT_FOR_CAPACITY),
        (decided(Action.BUILD, Right.CAPACITY, rebuild=True, leased=LEASED), Step.BUILD),
        (replace(decided(Action.BUILD, *Right), ended=True), Step.END),
    ],
)
def test_what_comes_next(work: Work, step: Step) -> None:
    assert next_step(work) == step


def walk(work: Work, actions: Iterator[Action], luck: Iterator[bool]) -> Iterator[tuple[Step, Work]]:
    """All steps to the end. ``actions`` are what is decided; ``luck`` is whether a step does what it is for, or a wait
    ends with the image still to be built."""
    while (step := next_step(work)) != Step.END:
        yield step, work
        well = next(luck)
        match step:
            case Step.DECIDE:
                work = replace(work, decision=DECISIONS[next(actions)])
            case Step.WAIT_FOR_RUN:
                work = work.having(Right.BUILD_LOCK) if well else work.having(Right.BUILD_LOCK).undecided()
            case Step.WAIT_FOR_MACHINE if not well:  # one that may only watch, and yet another machine builds it
                work = work.undecided()
            case Step.WAIT_FOR_MACHINE:
                work = work.having(Right.LEASE).undecided()
            case Step.LEASE_IF_FREE if well:
                work = work.having(Right.LEASE).undecided()
            case Step.LEASE_IF_FREE:
                work = replace(work.without(Right.CAPACITY), crowded=False)
            case Step.CAPACITY_IF_FREE if not well:
                work = replace(work.without(Right.LEASE), crowded=True)
            case Step.WAIT_FOR_CAPACITY | Step.CAPACITY_IF_FREE:
                work = work.having(Right.CAPACITY)
            case Step.PULL if not well:
                work = work.without(Right.LEASE).undecided()
            case Step.TAG if not well:
                work = work.undecided()
            case _:
                work = replace(work, ended=True)


@given(
    st.lists(st.sampled_from([*Action]), max_size=12),
    st.lists(st.booleans(), max_size=40),
    st.sampled_from([None, LEASED]),
    st.booleans(),
)
def test_nobody_waits_with_what_others_wait_for(
    actions: list[Action], luck: list[bool], leased: SharedRef | None, rebuild: bool
) -> None:
    """Whatever is decided and happens, the work ends, as soon as others let it; and what it waits with keeps nobody."""

    def then_built() -> Iterator[Action]:
        yield from actions
        while True:
            yield Action.BUILD

    def then_well() -> Iterator[bool]:
        yield from luck
        while True:
            yield True

    steps = list(walk(Work(leased=leased, rebuild=rebuild), then_built(), then_well()))
    assert len(steps) < 3 * (len(actions) + len(luck)) + 10
    for step, work in steps:
        if step == Step.WAIT_FOR_MACHINE:
            assert Right.CAPACITY not in work.held
        if step == Step.WAIT_FOR_CAPACITY:
            assert Right.LEASE not in work.held
        if step == Step.WAIT_FOR_RUN:
            assert not work.held
        if step == Step.BUILD:
            needed = (
                {Right.CAPACITY} if rebuild else {Right.BUILD_LOCK, Right.CAPACITY, *([Right.LEASE] if leased else [])}
            )
            assert needed <= work.held
