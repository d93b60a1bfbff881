"""``doit history``: what it understands, and what it prints."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.history.store import Build, History, StepRecord
from doit_images.core.run import Run
from doit_images.ui.history_view import details, get, show

BUILD = Build(
    image="auth",
    ref="vllm-swarm/auth:optimized",
    fingerprint="abc",
    action="build",
    status="done",
    reasons=("`services/auth/main.py` changed", "`base-python` was rebuilt"),
    started=1_790_000_000.0,
    seconds=12.5,
    steps=(
        StepRecord("[1/3] FROM x", "", 1, 3, 1.0, 0.0),
        StepRecord("[2/3] RUN --mount=type=cache,target=/c pip install y", "", 2, 3, 1.0, 9.0, why="its files changed"),
        StepRecord("[3/3] COPY a b", "", 3, 3, 1.0, 0.0, cached=True),
    ),
    size=231_000_000,
    layers=(("sha256:aaa", 200_000_000),),
    run="r1",
)


@pytest.fixture
def stored(tmp_path: Path) -> History:
    history = History(tmp_path / "history.sqlite3")
    history.add(BUILD)
    history.add(replace(BUILD, image="memory", status="failed", size=None, layers=None, steps=()))
    return history


def shown(
    history: History,
    words: Sequence[str] = (),
    number: str = "",
    limit: str = "",
    as_json: bool = False,
    against: str = "",
) -> str:
    """What ``doit history`` prints."""
    run = Run()
    run.history = history
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        show(run, words, number, against, limit, as_json=as_json)
    return printed.getvalue().rstrip("\n")


def test_what_it_understands(stored: History) -> None:
    stored.add(BUILD)
    of_auth = json.loads(shown(stored, ["auth"], as_json=True))
    assert [(build["id"], build["image"]) for build in of_auth] == [(3, "auth"), (1, "auth")]
    assert [build["id"] for build in json.loads(shown(stored, ["auth"], limit="1", as_json=True))] == [3]
    assert shown(stored, number="2").startswith("build 2\n")


@pytest.mark.parametrize(
    ("words", "options"), [([], {"number": "x"}), ([], {"limit": "-1"}), (["a", "b"], {}), ([], {"number": "²"})]
)
def test_what_it_does_not(stored: History, words: list[str], options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"takes one image|needs a whole number"):
        shown(stored, words, **options)


def test_the_table(stored: History) -> None:
    lines = shown(stored).splitlines()
    assert lines[0].split() == ["id", "when", "image", "what", "time", "cached", "size", "why"]
    assert lines[1].split()[0] == "2"
    assert "memory" in lines[1]
    assert "build failed" in lines[1]
    assert "auth" in lines[2]
    assert " 1/2 " in lines[2]
    assert " 231MB " in lines[2]


def test_one_build_whole(stored: History) -> None:
    text = details(get(stored, 1))
    assert text.splitlines()[0] == "build 1"
    assert "why      `services/auth/main.py` changed\n         `base-python` was rebuilt\n" in text
    assert "steps    1 of 2 from the cache" in text
    assert "   9.0 s  [2/3] RUN pip install y\n            its files changed\n  cached  [3/3] COPY a b" in text
    assert "   200MB  sha256:aaa" in text


def test_two_builds_are_compared_step_by_step(stored: History) -> None:
    """Also where a step was put before another."""
    steps = (
        StepRecord("[1/4] FROM y", "", 1, 4, 1.0, 0.0),
        StepRecord("[2/4] RUN --mount=type=cache,target=/c pip install y", "", 2, 4, 1.0, 0.0, cached=True),
        StepRecord("[3/4] RUN new", "", 3, 4, 1.0, 2.0),
        StepRecord("[4/4] COPY a b", "", 4, 4, 1.0, 41.0, why="`a` changed"),
    )
    stored.add(replace(BUILD, steps=steps, seconds=43.0))
    assert shown(stored, number="3", against="1").splitlines() == [
        "build 3 of auth against 1: 12 s → 43 s",
        "  cached →     41 s  COPY a b",
        "                       `a` changed",
        "       – →    2.0 s  RUN new",
        "   9.0 s →   cached  RUN pip install y",
    ]
    (first, *_) = json.loads(shown(stored, number="3", against="1", as_json=True))
    assert (first["before"]["cached"], first["after"]["why"]) == (True, "`a` changed")
    with pytest.raises(UserError, match="--show needs a whole number"):
        shown(stored, against="1")


def test_json_is_data(stored: History) -> None:
    assert [build["image"] for build in json.loads(shown(stored, as_json=True))] == ["memory", "auth"]
    one = json.loads(shown(stored, number="1", as_json=True))
    assert (one["id"], one["seconds"], one["steps"][1]["why"]) == (1, 12.5, "its files changed")


def test_what_is_not_there(stored: History, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no build 99"):
        shown(stored, number="99")
    with pytest.raises(UserError, match=r"no build of 'redis' \(there are auth, memory\)"):
        shown(stored, ["redis"])
    with pytest.raises(UserError, match=r"no build of 'atuh' \(did you mean 'auth'\?\)"):
        shown(stored, ["atuh"])
    assert shown(History(tmp_path / "none")) == "nothing was built yet"
    assert shown(History(tmp_path / "none"), as_json=True) == "[]"
