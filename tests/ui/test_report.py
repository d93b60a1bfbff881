"""The report: its reckoning on small runs by hand, its files, and its page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.history.store import Build, History, StepRecord
from doit_images.stack.layers import Disk, parts_of
from doit_images.ui.report import markdown, write
from doit_images.ui.report_page import Shown, page
from doit_images.ui.statistics import (
    causes,
    critical_path,
    latest_layers,
    longest_chain,
    on_tracks,
    runs,
    saved_seconds,
    step_histories,
    timeline,
)

START = 1_790_000_000.0


def built(image: str, began: float, seconds: float, *parents: str, number: int = 0, **more: Any) -> Build:
    """A build that began so many seconds after the run did."""
    values: dict[str, Any] = {"run": "r1", "reasons": (f"`{image}.py` changed",), **more}
    return Build(
        id=number or crc32(image.encode()),
        image=image,
        ref=f"x/{image}:1",
        fingerprint="f",
        action=values.pop("action", "build"),
        status=values.pop("status", "done"),
        started=START + began,
        seconds=seconds,
        waited=began,
        parents=parents,
        **values,
    )


# base 0-10; auth 10-14 and memory 10-18 wait for it; store 0-3; tool waits for a worker until store is done, 3-5
RUN = [
    built("base", 0, 10, number=1),
    built("store", 0, 3, number=2),
    built("tool", 3.1, 2, number=3),
    built("auth", 10.1, 4, "base", number=4),
    built("memory", 10.2, 8, "base", number=5),
]


def step(name: str, at: float, seconds: float, **more: Any) -> StepRecord:
    return StepRecord(f"[s {name[0]}/3] {name[2:]}", "s", int(name[0]), 3, START + at, seconds, **more)


def test_who_waited_for_whom() -> None:
    lanes = {lane.build.image: lane for lane in timeline(RUN)}
    assert (lanes["base"].ready, lanes["base"].began, lanes["base"].ended) == (0, 0, 10)
    assert lanes["memory"].ready == pytest.approx(10)
    assert lanes["memory"].began == pytest.approx(10.2)
    assert (lanes["tool"].ready, lanes["tool"].began) == (0, pytest.approx(3.1))
    assert [image for image, lane in lanes.items() if lane.critical] == ["base", "memory"]


def test_the_critical_path_by_parents_and_by_workers() -> None:
    assert [build.image for build in critical_path(RUN)] == ["base", "memory"]
    one_worker = [built("a", 0, 5, number=1), built("b", 5.1, 5, number=2), built("c", 10.2, 1, "a", number=3)]
    assert [build.image for build in critical_path(one_worker)] == ["a", "b", "c"]
    assert longest_chain(one_worker) == 6
    assert longest_chain(RUN) == 18
    twice = [built("a", 0, 5, number=1), built("a", 5.1, 3, number=2), built("b", 8.2, 1, "a", number=3)]
    assert longest_chain(twice) == 9
    assert critical_path([]) == []


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50), st.sets(st.integers(0, 9), max_size=3)), max_size=10))
def test_any_run_has_a_critical_path_that_goes_forward(found: list[tuple[float, float, set[int]]]) -> None:
    run = [
        built(f"i{n}", began, seconds, *(f"i{p}" for p in parents if p < n), number=n + 1)
        for n, (began, seconds, parents) in enumerate(found)
    ]
    path = critical_path(run)
    assert [build.started for build in path] == sorted(build.started for build in path)
    assert len({build.id for build in path}) == len(path)
    assert all(lane.ready <= lane.began <= lane.ended for lane in timeline(run))
    if run:
        assert path[-1].ended == max(build.ended for build in run)
        page(Shown("p", run, run, START))


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 9)), max_size=30))
def test_nothing_on_one_track_overlaps(found: list[tuple[float, float]]) -> None:
    placed = on_tracks(StepRecord("", started=begin, seconds=length) for begin, length in found)
    assert len(placed) == len(found)
    for number in {track for _, _, track in placed}:
        mine = [(begin, begin + step.seconds) for step, begin, track in placed if track == number]
        assert all(end <= begin for (_, end), (begin, _) in pairwise(mine))


def test_cache_hits_by_step_over_builds() -> None:
    old = built("auth", 0, 9, number=1, steps=(step("2 RUN x", 0, 8.0), step("3 COPY a", 8, 1.0)))
    failed = built("auth", 0, 9, number=2, status="failed", steps=(step("2 RUN x", 0, 4.0, error="exit 1"),))
    new = built("auth", 0, 1, number=3, steps=(step("2 RUN x", 0, 0, cached=True), step("3 COPY a", 0, 3.0)))
    newest_first = [new, failed, old]
    install, copy = step_histories(newest_first)["auth"].values()
    assert install.outcomes == ("executed", "failed", "cached")
    assert (install.hits, install.seen, install.usual_seconds) == (1, 3, 8.0)
    assert copy.outcomes == ("executed", None, "executed")
    assert copy.usual_seconds == 2.0
    assert saved_seconds([new], step_histories(newest_first)) == 8.0
    assert [len(s.outcomes) for s in step_histories(newest_first, columns=2)["auth"].values()] == [2, 2]


def test_two_steps_with_the_same_words_are_two() -> None:
    twice = built("auth", 0, 9, steps=(step("2 RUN x", 0, 8.0), step("2 RUN x", 0, 0, cached=True)))
    assert [s.outcomes for s in step_histories([twice])["auth"].values()] == [("executed",), ("cached",)]


def test_a_step_is_known_again_when_one_is_put_before_it() -> None:
    old = built("auth", 0, 9, number=1, steps=(step("2 RUN x", 0, 8.0),))
    new = built("auth", 0, 9, number=2, steps=(step("2 RUN new", 0, 1.0), step("3 RUN x", 1, 6.0)))
    assert [s.outcomes for s in step_histories([new, old])["auth"].values()] == [
        (None, "executed"),
        ("executed", "executed"),
    ]


def test_a_step_is_known_again_when_a_stage_is_put_before_its_own() -> None:
    def of(stage: str, text: str, **more: Any) -> StepRecord:
        return StepRecord(f"[{stage} 2/3] {text}", stage, 2, 3, START, **more)

    alone = StepRecord("[2/3] RUN make", "", 2, 3, START, 8.0)
    old = built("auth", 0, 9, number=1, steps=(alone,))
    two = built("auth", 0, 9, number=2, steps=(of("build", "RUN x"), of("stage-1", "RUN make", cached=True)))
    three = built("auth", 0, 9, number=3, steps=(of("build", "RUN x"), of("stage-2", "RUN make", cached=True)))
    for new in (two, three):
        assert saved_seconds([new], step_histories([new, old])) == 8.0
    assert StepRecord("[a 1/2] FROM base.invalid/3f:building-1", "a", 1, 2).words == "a FROM"
    assert of("linux/arm64 stage-3", "RUN x").words == "linux/arm64 RUN x"
    assert of("build ", "RUN x").words == of("build", "RUN x").words  # BuildKit writes "[build  2/10] RUN x"


def test_steps_with_the_same_words_are_told_apart_whichever_began_first() -> None:
    def of(stage: str, seconds: float, cached: bool) -> StepRecord:
        return StepRecord(f"[{stage} 2/2] RUN make", stage, 2, 2, START, seconds, cached)

    old = built("auth", 0, 9, number=1, steps=(of("stage-0", 8.0, False), of("stage-1", 1.0, False)))
    new = built("auth", 0, 9, number=2, steps=(of("stage-1", 0.0, True), of("stage-0", 5.0, False)))
    assert saved_seconds([new], step_histories([new, old])) == 1.0


def test_shared_layers_are_counted_once() -> None:
    base = (("sha256:a", 100), ("sha256:b", 50))
    found = latest_layers(
        [
            built("base", 0, 1, layers=base),
            built("auth", 0, 1, layers=(*base, ("sha256:c", 7))),
            built("store", 0, 1, layers=(("sha256:b", 50),)),  # the same content, but not on the same layers
            built("base", 0, 1, layers=(("sha256:old", 1),)),
        ]
    )
    disk = Disk({image: parts_of(layers) for image, layers in found.items()})
    totals = [(image, sum(layer.size for layer in layers), disk.unique(image)) for image, layers in found.items()]
    assert totals == [("auth", 157, 7), ("base", 150, 0), ("store", 50, 50)]
    assert disk.together == 207
    assert disk.users(found["auth"][0].chain) == ["auth", "base"]


def test_runs_and_causes() -> None:
    other = built("auth", 100, 2, run="r2", status="failed", reasons=("`a` changed", "`b` changed"))
    first, second = runs([*RUN, other])
    assert (first.built, first.failed, first.work) == (5, 0, 27)
    assert first.wall == pytest.approx(18.2)
    assert first.hit_rate is None
    assert (second.built, second.failed) == (0, 1)
    found = causes([*RUN, other, built("auth", 0, 99, action="retag")])
    assert [(cause.reason, cause.seconds) for cause in found[:2]] == [
        ("`base.py` changed", 10),
        ("`memory.py` changed", 8),
    ]
    assert {cause.builds for cause in found} == {1}


def test_markdown_for_a_pull_request() -> None:
    nasty = replace(RUN[0], reasons=("a | b\n<script>",), size=1_500_000)
    text = markdown(Shown("swarm", [nasty, *RUN[1:]], [nasty, *RUN[1:]], START))
    assert "| base | build | 10 s | – | 1.5MB | a \\| b &lt;script> |" in text.splitlines()
    assert "**Critical path:** base (10 s) → memory (8.0 s)" in text
    assert markdown(Shown("swarm", [], [], START)).endswith("Nothing was built yet.\n")


HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>"\'@main@'


def test_nothing_reaches_the_page_unescaped() -> None:
    build = built(HOSTILE, 0, 1, HOSTILE, reasons=(HOSTILE,), steps=(step(f"2 RUN {HOSTILE}", 0, 1, error=HOSTILE),))
    text = page(Shown(HOSTILE, [build], [build], START))
    assert HOSTILE not in text
    assert "<img" not in text
    assert text.count("<script>") == 1


def test_the_page_needs_no_network() -> None:
    text = page(Shown("swarm", RUN, RUN, START))
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "default-src 'none'" in text
    assert "@import" not in text


# ---- in a browser ----


def history_of_some_runs(path: Path) -> History:
    history = History(path)
    base = (("sha256:a", 72_000_000), ("sha256:b", 87_000_000))
    for run in range(6):
        for build in RUN:
            steps = (
                step("1 FROM x", 0, 0),
                step("2 RUN pip install", 0.2, build.seconds * 0.7, cached=run % 3 > 0),
                step("3 COPY src .", build.seconds * 0.75, build.seconds * 0.2, why="its files changed"),
            )
            moved = tuple(replace(s, started=(s.started or 0) + build.waited + 60 * run) for s in steps)
            own = (*base, (f"sha256:{build.image}", 9_000_000))
            history.add(
                replace(
                    build,
                    id=0,
                    run=f"r{run}",
                    started=build.started + 60 * run,
                    steps=moved,
                    layers=own,
                    size=168_000_000,
                )
            )
    return history


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write(folder / "report", history_of_some_runs(folder / "history.sqlite3"), "swarm")


@pytest.fixture
def opened(browser: Any, report: Path) -> Any:
    browser.get((report / "index.html").as_uri())
    return browser


def test_the_two_files(report: Path) -> None:
    assert sorted(path.name for path in report.iterdir()) == ["index.html", "report.md"]


@pytest.mark.browser
def test_the_page_shows_all_sections_and_complains_of_nothing(opened: Any) -> None:
    assert opened.title == "Builds of swarm"
    heads = [element.text for element in opened.find_elements("css selector", "section h2")]
    assert heads == [
        "Timeline of the last run",
        "Cache hits by step",
        "Image sizes by layer",
        "Trend over the last 6 runs",
        "What rebuilds were caused by",
        "Latest builds",
    ]
    assert opened.get_log("browser") == []
    requests = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


@pytest.mark.browser
def test_the_timeline_lies_where_it_should(opened: Any) -> None:
    lanes = opened.find_elements("css selector", ".lane")
    names = [lane.find_element("css selector", ".name").text for lane in lanes]
    bars = dict(zip(names, (lane.find_element("css selector", ".work").rect for lane in lanes), strict=True))
    track = opened.find_element("css selector", ".lane .track").rect
    for image, began, seconds in (("base", 0, 10), ("memory", 10.2, 8), ("auth", 10.1, 4)):
        assert bars[image]["x"] - track["x"] == pytest.approx(track["width"] * began / 18.2, abs=3)
        assert bars[image]["width"] == pytest.approx(track["width"] * seconds / 18.2, abs=3)
    assert [e.text for e in opened.find_elements("css selector", ".lane.critical .name")] == ["base", "memory"]


@pytest.mark.browser
def test_the_keyboard_reaches_every_bar_and_tells_what_it_is(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    active = lambda: opened.switch_to.active_element  # noqa: E731
    for _ in range(20):
        active().send_keys(Keys.TAB)
        if "work" in (active().get_attribute("class") or ""):
            break
    tip = opened.find_element("id", "tip")
    told = [tip.text]
    for _ in range(4):
        active().send_keys(Keys.ARROW_RIGHT)
        told.append(tip.text)
    assert [text.split(":")[0] for text in told] == ["base", "store", "tool", "auth", "memory"]
    assert told[-1] == "memory: build done, 8.0 s\n`memory.py` changed"
    active().send_keys(Keys.TAB)
    assert "work" not in (active().get_attribute("class") or "")  # one stop for the whole drawing


@pytest.mark.browser
def test_light_and_dark_both_read_well(opened: Any) -> None:
    button = opened.find_element("css selector", "button.theme")
    seen = {}
    for _ in range(2):
        button.click()
        theme = opened.execute_script("return document.documentElement.dataset.theme")
        seen[theme] = opened.execute_script(CONTRASTS)
    assert set(seen) == {"light", "dark"}
    for theme, found in seen.items():
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}, theme


CONTRASTS = """
const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(Number(v) / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return /, 0\\)$/.test(colour) ? behind(element.parentElement) : colour;
};
const found = {};
for (const selector of [
  "body", "h2", ".note", "nav a", "td", "th", ".work > span", ".legend li", ".path li", "footer", ".axis span",
]) {
  const element = document.querySelector(selector);
  const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
  found[selector] = (a + 0.05) / (b + 0.05);
}
return found;
"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_width_makes_the_page_scroll_sideways(opened: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.browser
def test_it_prints_everything_in_light_colours(opened: Any) -> None:
    opened.execute_script("document.documentElement.dataset.theme = 'dark'")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.execute_script("return [...document.querySelectorAll('details')].every((d) => d.open)")
    assert not opened.find_element("css selector", "nav").is_displayed()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
def test_a_page_of_hostile_names_runs_nothing(browser: Any, tmp_path: Path) -> None:
    build = built(HOSTILE, 0, 1, reasons=(HOSTILE,), steps=(step(f"2 RUN {HOSTILE}", 0, 1),), layers=((HOSTILE, 5),))
    (tmp_path / "x.html").write_text(page(Shown("safe", [build], [build, build], START)))
    browser.get((tmp_path / "x.html").as_uri())
    assert browser.title == "Builds of safe"
    assert browser.find_elements("css selector", "img") == []


@pytest.mark.browser
def test_an_empty_history_says_so(browser: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "report", History(tmp_path / "none.sqlite3"), "swarm")
    browser.get((folder / "index.html").as_uri())
    assert "Nothing was built yet." in browser.find_element("css selector", "main").text
