"""Verdicts on measurements: the promised JSON, the guide's figures beside ours, nothing made up."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import actions, compare, edits, scenarios
from benchmarks.compare import Row
from benchmarks.measure import Timing
from benchmarks.replay import Applied, Count, Replay
from benchmarks.scenarios import Case
from doit_images.core.base.errors import UserError

MACHINE = {
    "date": "2026-11-26 01:10", "commit": "0712c11abc",
    "cpus": 2, "cpu": "a cpu", "memory_gb": 8.0, "load_average": [0.1, 0.2, 0.3], "system": "Linux 6 x86_64",
    "python": "3.13.1", "engine": "26.1", "storage": "overlay2", "buildx": "0.13.1", "compose": "2.26.1",
}  # fmt: skip


def case(scenario: str, image: str, standard: float, optimized: float) -> Case:
    return Case(scenario, image, Timing((standard,)), Timing((optimized,)), "what was done", ("1.0 s app: RUN x",))


CASES = [
    case("cold", "", 300, 200),
    case("nothing", "", 2, 0.2),
    case("code", "auth", 40, 1),
    case("code", "memory", 60, 4),
    case("dependency", "auth", 40, 10),
    case("base", "shared", 100, 10),
    case("system", "", 100, 90),
]
REPLAY = Replay(
    [
        Applied("one", Count(("auth",), 50, 46, 1.0), Count(("auth",), 40, 30, 20.0), ("auth",)),
        Applied("two", Count((), 50, 50, 0.2), Count(("auth", "memory"), 40, 20, 40.0), ()),
    ]
)
SIZES = {
    "auth": {"standard": 800, "documented": 300, "optimized": 200},
    "memory": {"standard": 1000, "documented": 700, "optimized": 600},
}
DISK = {"standard": 1500, "documented": 900, "optimized": 700}


def rows() -> dict[str, Row]:
    return {row.metric: row for row in compare.rows(CASES, SIZES, DISK, REPLAY)}


def test_the_total_is_of_the_rebuilds_only() -> None:
    total = rows()["total of all rebuilds"]
    assert (total.standard, total.optimized) == (240, 25)
    assert total.improvement == pytest.approx(1 - 25 / 240)
    assert (total.guide, total.goal, total.met) == (0.77, 0.87, True)


def test_each_service_is_judged_by_its_own_rebuilds() -> None:
    times = {row.metric: row for row in compare.rows(CASES, {}, DISK, Replay())}
    assert (times["auth: rebuild"].standard, times["auth: rebuild"].optimized) == (80, 11)
    assert times["auth: rebuild"].met is True
    assert times["memory: rebuild"].met is True


def test_a_missed_goal_says_so_and_where_the_time_went() -> None:
    row = rows()["after a code change"]
    assert (row.standard, row.optimized) == (50, 2.5)
    assert row.met is True
    slow = [case("code", "auth", 50, 5)]
    missed = next(row for row in compare.rows(slow, {}, DISK, Replay()) if row.metric == "after a code change")
    assert missed.met is False
    assert compare.verdict(missed) == "goal missed (95%)"
    assert "1.0 s app: RUN x" in missed.note


def test_verdicts_tell_the_goal_from_the_guide() -> None:
    def row(improvement: float) -> Row:
        return Row("size", "x", "bytes", 100, 1, improvement, 0.40, 0.42)

    assert compare.verdict(row(0.43)) == "goal reached"
    assert compare.verdict(row(0.41)) == "goal missed (42%), the guide's 40% reached"
    assert compare.verdict(row(0.39)) == "goal missed (42%), and the guide's"
    assert compare.verdict(Row("time", "x", "s", 1, 1, 0.0, None, None)) == ""


def test_sizes_one_by_one_and_on_one_disk() -> None:
    found = [row for row in compare.rows([], SIZES, DISK, Replay()) if row.table == "size"]
    assert [(row.metric, row.standard, row.optimized) for row in found] == [
        ("all images, one by one", 1800, 800),
        ("auth: size", 800, 200),
        ("memory: size", 1000, 600),
        ("all images on one disk", 1500, 700),
    ]
    assert [row.met for row in found] == [True, True, False, None]
    assert [row.documented for row in found] == [1000, 300, 700, 900]
    assert [row.met_documented for row in found] == [False, False, False, None], "at most 0.65 of the documented bytes"


def test_reuse_is_counted_over_all_edits() -> None:
    steps = rows()["steps reused"]
    assert (steps.standard, steps.optimized, steps.improvement) == (50 / 80, 96 / 100, 0.96)
    assert steps.met is True
    images = rows()["images built"]
    assert (images.standard, images.optimized) == (3, 1)
    assert "1 were needed as BuildKit judges, 0 missed" in images.note


def test_a_missed_rebuild_is_counted() -> None:
    replay = Replay([Applied("x", Count((), 5, 5, 0.1), Count((), 5, 5, 0.1), ("auth",))])
    assert replay.missed == ["auth, x"]
    assert replay.as_json()["missed"] == 1


def test_the_promised_json() -> None:
    made = json.loads(json.dumps(compare.as_json(compare.rows(CASES, SIZES, DISK, REPLAY), MACHINE)))
    assert set(made) == {"rows", "machine"}
    for row in made["rows"]:
        assert {"metric", "standard", "optimized", "improvement", "guide", "goal", "met"} <= set(row)
        assert row["met"] == (None if row["goal"] is None else row["improvement"] >= row["goal"])


def test_markdown_shows_every_row_with_guide_and_goal() -> None:
    text = compare.markdown(compare.rows(CASES, SIZES, DISK, REPLAY), MACHINE)
    assert "| total of all rebuilds | 240 s |  | 25 s | 89.6% | 77–87 % faster | 87% | goal reached |  |  |  |" in text
    assert "| after a code change | 50 s |  | 2.50 s | 95.0% | 10–20 s | 95% | goal reached |  |  |  |" in text
    assert "| steps reused | 62.5% |  | 96.0% | 96.0% | 90 % | 90% | goal reached |  |  |  |" in text
    row = "auth: size | 800B | 300B | 200B | 75.0% | 40–42 % smaller | 42% | goal reached | 0.67 × | ≤ 0.65 × | missed"
    assert f"| {row} |" in text
    assert "commit 0712c11abc" in text
    assert text.count("###") == 3
    assert "load average 0.1" in text


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "hr", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_escapes_what_it_shows() -> None:
    page = compare.page(compare.rows(CASES, SIZES, DISK, REPLAY), MACHINE, "<swarm>")
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert "<swarm>" in "".join(parser.text)
    assert "<swarm>" not in page
    assert "7 of 11 goals reached" in page
    assert "@main@" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=5), st.lists(st.floats(0.01, 1000), min_size=1, max_size=5))
def test_an_improvement_is_the_part_of_the_median_that_is_saved(one: list[float], other: list[float]) -> None:
    found = Case("code", "a", Timing(tuple(one)), Timing(tuple(other)))
    assert found.improvement == pytest.approx(1 - found.optimized.median / found.standard.median)
    assert found.improvement < 1


INPUTS = {
    "base": ["docker/base/Dockerfile", "docker/base/requirements.txt", "docker/base/install.sh"],
    "auth": [
        "services/auth/__init__.py",
        "services/auth/app.py",
        "services/common/log.py",
        "docker/auth/requirements.txt",
    ],
    "web": ["services/web/index.ts", "services/common/log.py", "services/web/package.json"],
    "store": ["docker/store/Dockerfile"],
}


def test_edits_are_found_from_what_images_read() -> None:
    assert edits.code_of("auth", INPUTS) == edits.Edit("services/auth/app.py", "#")
    assert edits.code_of("web", INPUTS) == edits.Edit("services/web/index.ts", "//")
    assert edits.code_of("store", INPUTS) is None
    assert edits.requirements_of("auth", INPUTS) == edits.Edit("docker/auth/requirements.txt", "#")
    assert edits.requirements_of("web", INPUTS) is None  # JSON has no comments
    assert edits.shared_code(INPUTS) == edits.Edit("services/common/log.py", "#")


def test_an_edit_changes_the_file_and_no_two_are_alike(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    edit = edits.Edit("a.py", "#")
    edit.apply(tmp_path, "one")
    first = (tmp_path / "a.py").read_text()
    edit.apply(tmp_path, "two")
    assert first == "x = 1\n\n# one\n"
    assert (tmp_path / "a.py").read_text() != first
    compile(first, "a.py", "exec")


@pytest.mark.parametrize(("given_", "expected"), [("", ["a", "b"]), ("b", ["b"]), (" b , a", ["b", "a"])])
def test_images_are_chosen_by_name(given_: str, expected: list[str]) -> None:
    assert actions.chosen(given_, ["a", "b"]) == expected


def test_an_unknown_image_is_said_so() -> None:
    with pytest.raises(UserError, match=r"no image 'c' is declared both ways \(there are a, b\)"):
        actions.chosen("c", ["a", "b"])


class Builds:
    """Two ways of building that only count: what the scenarios prepare and in which order they are timed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bases, self.log = folder, ("base:1",), list[Any]()
        self.failing: list[int] = []
        seconds = {"standard": 10.0, "documented": 2.0, "optimized": 1.0}
        self.ways = {way: lambda way=way: self.build(way, seconds[way]) for way in seconds}

    def build(self, way: str, seconds: float) -> Any:
        """One build. ``failing`` says how many optimized ones go well before one fails, and from then on again."""
        if self.failing and way == "optimized":
            self.failing[0] -= 1
            if self.failing[0] < 0:
                self.failing.pop(0)
                self.log.append("failed")
                raise UserError("the connection was dropped")
        self.log.append(way)
        return type("Ran", (), {"seconds": seconds})

    def build_plainly(self, image: str) -> Any:
        text = (self.folder / f"services/{image}/app.py").read_text()
        self.log.append(f"plain {image} {text.count('plain')}")
        return type("Ran", (), {"seconds": 0.5})

    def forget_everything(self) -> None:
        self.log.append("empty")

    def change_base(self, salt: str) -> None:
        self.log.append(f"base {salt}")

    def run(self) -> Any:
        history = type("History", (), {"last_run": staticmethod(list)})
        return type("Run", (), {"history": history})


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    for path in ("services/auth/app.py", "docker/auth/requirements.txt", "docker/base/requirements.txt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("\n")
    return Builds(tmp_path)


def test_scenarios_prepare_all_ways_alike_and_take_turns(builds: Builds) -> None:
    told: list[str] = []
    cases = scenarios.run(builds, INPUTS, ["auth", "store"], ["base"], 2, told.append)
    assert [(one.scenario, one.image) for one in cases] == [
        ("cold", ""),
        ("nothing", ""),
        ("code", "auth"),
        ("dependency", "auth"),
        ("base", "base"),
        ("system", ""),
    ]
    for one in cases:
        measured = {way: timing.seconds for way, timing in one.timings.items()}
        plain = {"plain": (0.5, 0.5)} if one.scenario == "code" else {}
        assert measured == {"standard": (10, 10), "documented": (2, 2), "optimized": (1, 1)} | plain
    there, back = ["standard", "documented", "optimized"], ["optimized", "documented", "standard"]
    bare = "plain auth 1"
    assert builds.log == [
        *("empty", *there, *there, *there, bare, *there, *there, "base benchmark 0 5", *there),
        *("empty", *back, *back, *back, bare, *back, *back, "base benchmark 1 5", *back),
    ]
    assert (builds.folder / "services/auth/app.py").read_text().count("# benchmark") == 2, (
        "the bare one's is taken back"
    )
    assert "left" not in told[4], "nobody knows how long the others take"
    assert told[6].endswith(" left")


def test_a_round_that_failed_is_taken_again_from_where_it_began(builds: Builds) -> None:
    builds.failing = [1]
    told: list[str] = []
    cases = scenarios.run(builds, INPUTS, ["auth"], [], 1, told.append, ["code"])
    assert [one.timings["optimized"].seconds for one in cases] == [(1.0,)]
    every = ["standard", "documented", "optimized"]
    assert builds.log == [*every, "standard", "documented", "failed", *every, *every, "plain auth 1"]
    assert any("taken again (1 of 2)" in line and "dropped" in line for line in told)


def test_a_round_that_goes_on_failing_is_left_out_and_the_others_are_kept(builds: Builds) -> None:
    builds.failing = [1, 1, 1, 1]  # each second build: those between settle
    told: list[str] = []
    cases = scenarios.run(builds, INPUTS, ["auth"], [], 2, told.append, ["code"])
    assert [one.timings["optimized"].seconds for one in cases] == [(1.0,)]
    assert any("code auth is left out of this round" in line for line in told)
    builds.failing = [1] + [1] * 20
    with pytest.raises(UserError, match="nothing could be measured"):
        scenarios.run(builds, INPUTS, ["auth"], [], 1, told.append, ["code"])


def test_one_changed_line_is_judged_by_one_bare_build() -> None:
    def timed(*seconds: float) -> Timing:
        return Timing(seconds)

    one = Case("code", "a", timed(9), timed(0.3), documented=timed(1.2), plain=timed(0.2))
    whole, bare = (row for row in compare.rows([one], {}, DISK, Replay()) if row.metric.startswith("after a code"))
    assert (whole.documented, whole.at_most) == (1.2, None)
    assert (bare.documented, bare.ratio, bare.at_most, bare.met_documented) == (0.2, pytest.approx(1.5), 1.3, False)
    nothing = Case("nothing", "", timed(1, 2, 3), timed(0.1, 0.2), documented=timed(1.0))
    (row,) = compare.rows([nothing], {}, DISK, Replay())
    assert (row.ratio, row.met_documented) == (pytest.approx(0.15), True)
    assert row.as_json()["spread"] == {"standard": [1, 3], "documented": [1, 1], "optimized": [0.1, 0.2]}
