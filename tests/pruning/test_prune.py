"""Pruning: nothing needed ever goes, the bounds hold afterwards, and the least useful goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doit_images.pruning.prune import ANY_AGE, Item, _Pruned, choose, total

DAY = 86400.0


def item(key: str, size: int = 100, **more: object) -> Item:
    return Item(key, "image", key, {key: size}, **more)


def keys(items: list[Item], max_age: float, max_size: int) -> list[str]:
    return [one.key for one, _ in choose(items, max_age, max_size).gone]


def test_what_is_old_goes_oldest_first_and_what_is_needed_stays() -> None:
    items = [
        item("young"),
        item("old", idle=8 * DAY),
        item("older", idle=9 * DAY),
        item("mine", idle=99 * DAY, needed="x"),
    ]
    assert keys(items, 7 * DAY, 10_000) == ["older", "old"]


def test_what_is_too_much_goes_least_useful_first() -> None:
    items = [item("slow", rebuild_cost=100), item("quick", rebuild_cost=20), item("large", 1000, rebuild_cost=100)]
    assert keys(items, DAY, 1100) == ["large"]
    assert keys(items, DAY, 150) == ["large", "quick"]


def test_of_two_alike_the_one_goes_that_was_of_no_use_for_longer() -> None:
    items = [item("a"), item("b", idle=3600), item("c")]
    assert keys(items, DAY, 200) == ["b"]


def test_what_is_just_little_enough_stays() -> None:
    items = [item("a"), item("b", rebuild_cost=1)]
    assert keys(items, DAY, 200) == []
    assert keys(items, DAY, 199) == ["a"]
    assert keys(items, DAY, 100) == ["a"]


def test_what_is_removed_frees_nothing_any_more() -> None:
    disk = _Pruned([item("a"), item("under", above=("a",))])
    assert (disk.frees(item("a")), disk.frees(item("of another disk"))) == (100, 0)
    assert not disk.remove(item("under", above=("a",)))
    assert disk.remove(item("a"))
    assert (disk.frees(item("a")), disk.remove(item("a")), disk.left) == (0, False, 100)


def test_parts_that_a_needed_item_holds_cost_nothing_and_free_nothing() -> None:
    needed = Item("a", "image", "a", {"base": 900, "a": 10}, needed="the plan needs it")
    other = Item("b", "image", "b", {"base": 900, "b": 20}, idle=9 * DAY)
    assert choose([needed, other], DAY, 0).gone == ((other, 20),)
    assert choose([needed, other], 99 * DAY, 20).gone == ()


def test_a_shared_part_is_freed_by_the_last_that_holds_it() -> None:
    items = [Item(key, "image", key, {"base": 900, key: 10}, idle=9 * DAY) for key in "ab"]
    assert [freed for _, freed in choose(items, DAY, 0).gone] == [10, 910]


def test_shared_parts_alone_are_brought_under_the_bound() -> None:
    items = [Item(key, "image", key, {"base": 900}) for key in "ab"]
    assert choose(items, DAY, 100).left == 0


def test_what_something_lies_on_goes_after_it_or_not_at_all() -> None:
    below = item("below", idle=9 * DAY, above=("above",))
    assert keys([below, item("above", idle=8 * DAY)], DAY, 10_000) == ["above", "below"]
    assert keys([below, item("above")], DAY, 10_000) == []
    assert keys([below, item("above", needed="in use")], ANY_AGE, 0) == []


def test_everything_is_all_that_is_not_needed() -> None:
    assert sorted(keys([item("a"), item("b"), item("c", needed="x")], ANY_AGE, 10_000)) == ["a", "b"]


_PARTS = st.dictionaries(st.sampled_from("pqrstu"), st.just(0), max_size=4)


@st.composite
def disks(draw: st.DrawFn) -> list[Item]:
    sizes = {part: draw(st.integers(0, 1000)) for part in "pqrstu"}
    items: list[Item] = []
    for number in range(draw(st.integers(0, 10))):
        items.append(
            Item(
                key=str(number),
                kind="image",
                name=str(number),
                parts={part: sizes[part] for part in draw(_PARTS)},
                idle=draw(st.floats(0, 20 * DAY)),
                rebuild_cost=draw(st.floats(0, 1000)),
                needed=draw(st.sampled_from(["", "", "runs", "foreign"])),
                above=tuple(draw(st.sets(st.sampled_from([one.key for one in items] or ["-"]), max_size=2))),
            )
        )
    return items


@given(disks(), st.floats(0, 20 * DAY), st.integers(0, 5000), st.booleans())
def test_any_disk(items: list[Item], max_age: float, max_size: int, everything: bool) -> None:
    pruned = choose(items, ANY_AGE if everything else max_age, max_size)
    gone = [one for one, _ in pruned.gone]
    kept = [one for one in items if one not in gone]
    assert not [one for one in gone if one.needed]
    assert len({one.key for one in gone}) == len(gone)
    there = {one.key for one in items}
    for one in gone:
        assert not there & set(one.above)
        there.remove(one.key)
    assert pruned.freed == total(items) - total(kept)
    # Nothing that may go is too old, or left although it is too much, but what something kept lies on.
    held_down = {one.key for one in kept if not one.needed and any(key in there for key in one.above)}
    loose = [one for one in kept if not one.needed and one.key not in held_down]
    assert not [one for one in loose if everything or one.idle > max_age]
    assert pruned.left == total(kept) - total(one for one in kept if one.needed)
    assert pruned.left <= max_size or not loose
    # And nothing went for its size alone once it was little enough.
    young = [number for number, one in enumerate(gone) if one.idle <= max_age]
    if young and not everything:
        assert pruned.left + sum(freed for _, freed in pruned.gone[young[-1] :]) > max_size
