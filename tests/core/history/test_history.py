"""The stored builds: round trip, forecast, many writers, kill, migration, bounds."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.buildkit.progress import Progress
from doit_images.core.history import store as history
from doit_images.core.history.store import Build, History, StepRecord, steps_of
from tests.conftest import ROOT
from tests.waiting import patience

BUILD = Build(
    image="auth",
    ref="vllm-swarm/auth:optimized",
    fingerprint="f" * 64,
    action="build",
    status="done",
    reasons=("services/auth/main.py changed",),
    started=1000.0,
    seconds=12.5,
    waited=1.5,
    steps=(StepRecord("[builder 1/2] FROM x", "builder", 1, 2), StepRecord("[builder 2/2] RUN y", "builder", 2, 2)),
    size=231,
    layers=(("sha256:a", 200), ("sha256:b", 31)),
    image_id="sha256:i",
    builder="default",
    commit="abc",
    workers=4,
    run="r1",
    parents=("base-python",),
)


@pytest.fixture
def stored(tmp_path: Path) -> History:
    return History(tmp_path / "history" / "history.sqlite3")


def test_no_file_is_an_empty_history_and_is_not_made_by_looking(stored: History) -> None:
    assert (stored.recent(), stored.get(1), stored.last_run(), stored.expected_seconds([BUILD.ref])) == (
        [],
        None,
        [],
        {},
    )
    assert not stored.path.parent.exists()


def test_what_goes_in_comes_out(stored: History) -> None:
    number = stored.add(BUILD)
    assert stored.get(number) == replace(BUILD, id=number)
    bare = replace(BUILD, size=None, layers=None, steps=(), reasons=(), parents=())
    assert stored.get(stored.add(bare)) == replace(bare, id=number + 1)


@given(st.text(), st.lists(st.text()), st.floats(0, 1e6))
def test_any_text_and_number_survives(text: str, reasons: list[str], seconds: float) -> None:
    text = text.encode("utf-8", "replace").decode()
    reasons = [reason.encode("utf-8", "replace").decode() for reason in reasons]
    build = replace(BUILD, image=text, reasons=tuple(reasons), seconds=seconds)
    for name in history._COLUMNS:
        history._stored(name, getattr(build, name))
    row = {name: history._stored(name, getattr(build, name)) for name in history._COLUMNS}
    assert history._loaded(row) == build


def test_newest_first_and_by_image(stored: History) -> None:
    for image in ("auth", "memory", "auth"):
        stored.add(replace(BUILD, image=image))
    assert [build.id for build in stored.recent()] == [3, 2, 1]
    assert [build.id for build in stored.recent("auth")] == [3, 1]
    assert [build.id for build in stored.recent(limit=1)] == [3]


def test_the_forecast_is_the_median_of_recent_real_builds(stored: History) -> None:
    for seconds in (900, 900, 900, 900, 10, 11, 12, 13, 14, 15, 100):
        stored.add(replace(BUILD, seconds=seconds))
    stored.add(replace(BUILD, seconds=0.01, action="retag"))
    stored.add(replace(BUILD, seconds=1, status="failed"))
    stored.add(replace(BUILD, ref="app/memory", action="pull"))
    stored.add(replace(BUILD, ref="app/auth:standard", seconds=700))
    assert stored.expected_seconds([BUILD.ref, "app/memory", "never"]) == {BUILD.ref: 13.0}


def test_the_last_run_is_the_last_that_built(stored: History) -> None:
    stored.add(replace(BUILD, run="r1"))
    stored.add(replace(BUILD, run="r2", started=30.0))
    stored.add(replace(BUILD, run="r2", image="memory", started=20.0))
    stored.add(replace(BUILD, run="r3", action="retag"))
    assert [(build.run, build.image) for build in stored.last_run()] == [("r2", "memory"), ("r2", "auth")]


def test_a_run_without_builds_is_better_than_none(stored: History) -> None:
    stored.add(replace(BUILD, run="r3", action="retag"))
    assert [build.run for build in stored.last_run()] == ["r3"]


def test_old_rows_go(stored: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEEP", 3)
    for _ in range(5):
        stored.add(BUILD)
    assert [build.id for build in stored.recent()] == [5, 4, 3]


def adding(history: History, what: str) -> list[str]:
    """The command line of a process that does this with a history and a build."""
    program = (
        "import pickle, sys; from pathlib import Path; from doit_images.core.history.store import History\n"
        f"history, build = History(Path(sys.argv[1])), pickle.loads(bytes.fromhex(sys.argv[2]))\n{what}"
    )
    return [sys.executable, "-c", program, str(history.path), pickle.dumps(BUILD).hex()]


def test_many_threads_and_processes_at_once_lose_nothing(stored: History) -> None:
    argv = adding(stored, "for _ in range(25): History(history.path).add(build)")
    children = [subprocess.Popen(argv, cwd=ROOT) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: stored.add(BUILD), range(25)))
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(stored.recent(limit=1000)) == 100


def test_the_first_builds_of_a_history_may_end_at_once(tmp_path: Path) -> None:
    for number in range(20):
        fresh = History(tmp_path / str(number) / "history.sqlite3")
        together = Barrier(6)

        def add(_: int, fresh: History = fresh, together: Barrier = together) -> int:
            together.wait()
            fresh.expected_seconds(["web"])
            return fresh.add(BUILD)

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(add, range(6))) == [1, 2, 3, 4, 5, 6]


def test_a_killed_writer_leaves_a_whole_history(stored: History) -> None:
    argv = adding(stored, "while True: print(History(history.path).add(build), flush=True)")
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(5)]
    os.kill(child.pid, signal.SIGKILL)
    said += child.stdout.readlines()
    child.wait()
    acknowledged = int([line for line in said if line.endswith("\n")][-1])
    kept = stored.recent(limit=100_000)
    assert len(kept) >= acknowledged  # nothing that was acknowledged is gone
    assert stored.add(BUILD) == len(kept) + 1


def test_a_newer_history_is_left_alone(stored: History) -> None:
    stored.add(BUILD)
    with sqlite3.connect(stored.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        stored.recent()


def test_a_damaged_file_is_put_aside_and_said(stored: History, capsys: pytest.CaptureFixture[str]) -> None:
    junk = b"this is not a database, whatever its name says" * 100
    stored.path.parent.mkdir()
    for use in (stored.recent, lambda: stored.add(BUILD)):
        stored.path.write_bytes(junk)
        use()
        assert stored.path.with_name("history.sqlite3.damaged").read_bytes() == junk
    assert [build.image for build in stored.recent()] == [BUILD.image]
    said = f"{stored.path}: the build history was damaged; it is kept as history.sqlite3.damaged, and a new one begins"
    assert capsys.readouterr().err.splitlines() == [said], "once"


@pytest.mark.parametrize(
    ("column", "value"),
    [("steps", "[1]"), ("steps", "{"), ("layers", "7"), ("started", "x"), ("started", 1e300), ("image", b"\xff")],
)
def test_a_row_that_is_damaged_is_passed_over(stored: History, column: str, value: object) -> None:
    stored.add(BUILD)
    stored.add(replace(BUILD, image="other"))
    with sqlite3.connect(stored.path) as db:
        db.execute(f"UPDATE builds SET {column} = ? WHERE id = 1", (value,))
    assert [build.image for build in stored.recent()] == ["other"]
    assert stored.expected_seconds([BUILD.ref]) == {BUILD.ref: BUILD.seconds}


def test_an_empty_file_of_a_killed_first_run_is_taken_over(stored: History) -> None:
    stored.path.parent.mkdir()
    stored.path.touch()
    assert stored.add(BUILD) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used"):
        History(tmp_path / "file" / "history.sqlite3").add(BUILD)


def test_steps_of_a_real_build() -> None:
    progress = Progress()
    progress.feed((ROOT / "tests/buildkit/cold.rawjson").read_bytes())
    progress.finish()
    steps = steps_of(progress)
    build = replace(BUILD, steps=steps)
    assert (build.work_steps, build.cached_steps) == (5, 0)
    install = next(step for step in steps if step.number == 4)
    assert install.name.startswith("[builder 4/4] RUN echo installing")
    assert install.why == "follows builder 3/4 COPY requirements.txt ."
    assert install.seconds == pytest.approx(2.147, abs=0.01)


def test_the_forecast_reads_the_index_alone(stored: History) -> None:
    """The plan, not the clock: a forecast over many rows must not scan them."""
    stored.add(BUILD)
    with sqlite3.connect(stored.path) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {history._FORECAST}", ("build", 7, '["auth"]'))]
    assert any("COVERING INDEX builds_forecast" in step for step in plan), plan
    assert not any(step.startswith("SCAN builds") for step in plan), plan


def test_sqlite_is_not_imported_before_it_is_needed() -> None:
    program = "import sys, doit_images.core.history.store; sys.exit('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_busy_history_is_waited_for(stored: History) -> None:
    stored.add(BUILD)
    db = sqlite3.connect(stored.path, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stored.add, BUILD)
        time.sleep(0.2)
        assert not waiting.done()
        db.execute("ROLLBACK")
        assert waiting.result(patience()) == 2
