"""What people see while doit runs: real runs of doit, on a pipe and on a terminal in memory."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.formatting import because, seconds_text
from doit_images.core.building.events import ImageState
from doit_images.core.buildkit.progress import Progress
from doit_images.core.planning.plan import Action
from doit_images.ui.board import Board
from doit_images.ui.live import Picture, lines, overall, remaining
from doit_images.ui.rows import BAD, GOOD, Row
from tests import forked
from tests.conftest import ROOT
from tests.waiting import lasting, until

CAPTURED = ROOT / "tests" / "buildkit"

DODO = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from doit.exceptions import TaskFailed
from doit_images.core.base.errors import UserError
from doit_images.core.building.events import ImageEnded, ImageStarted, StepsChanged
from doit_images.core.building.events import ImageState
from doit_images.core.buildkit.progress import Progress
from doit_images.core.planning.plan import Action
from doit_images.cli.process import current
from doit_images.ui.reporter import Reporter

class Ours(Reporter):
    def __init__(self, stream, options):
        super().__init__(stream, options, current())

DOIT_CONFIG = {{"reporter": Ours, "par_type": "thread", "num_process": 2, "continue": True, "verbosity": 1}}
PARENTS = {{"base": [], "auth": ["base"], "store": [], "broken": ["store"], "above": ["broken"], "top": ["above"]}}
FRESH = Path("fresh").exists()
PAUSE = float(Path("pause").read_text()) if Path("pause").exists() else 0.0
HELD = Path("held").read_bytes() if Path("held").exists() else b"never"

def build(name):
    emit = current().events.emit
    emit(ImageStarted(name, Action.BUILD, [f"docker/{{name}}/Dockerfile changed"], 4.0))
    progress = Progress()
    source = "fail" if name == "broken" else "cold"
    for part in Path({str(CAPTURED)!r}, source + ".rawjson").read_bytes().split(b"\\n{{"):
        time.sleep(PAUSE)
        emit(StepsChanged(name, progress, progress.feed((b"" if part.startswith(b"{{") else b"\\n{{") + part)))
        while HELD in part and not Path("go on").exists():
            time.sleep(0.01)
    progress.finish()
    if name == "broken":
        return TaskFailed("failed broken: it is\\n  second line")
    emit(ImageEnded(name, ImageState.BUILT, progress, 231_000_000))

def trouble():
    raise UserError("no such thing", where="file:3", remedy="make it")

def task_images():
    for name, parents in PARENTS.items():
        yield {{"name": name, "actions": [(build, [name])], "task_dep": [f"images:{{p}}" for p in parents],
               "meta": {{"image": name}}, "uptodate": [FRESH], "io": {{"capture": False}}}}

def task_other():
    return {{"actions": ["echo its own output"], "verbosity": 2}}

def task_trouble():
    return {{"actions": [trouble], "io": {{"capture": False}}}}

def task_bug():
    return {{"actions": [lambda: 1 / 0]}}

def task_again():
    return {{"actions": [trouble], "io": {{"capture": False}}}}

def task_told():
    "It says what it does: [--not] [WORD]"
    return {{"actions": ["true"]}}

def task_after():
    return {{"actions": ["true"], "task_dep": ["trouble"]}}

def task_quiet():
    return {{"actions": [lambda: print("data")], "meta": {{"quiet": True}}, "verbosity": 2}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dodo.py").write_text(DODO)
    return tmp_path


def doit(project: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return forked.run([sys.executable, "-m", "doit", *args], {**os.environ, "TERM": "xterm", **environ}, project)


def test_no_terminal_one_line_at_the_start_and_one_block_at_the_end(project: Path) -> None:
    run = doit(project, "images:auth")
    assert (run.returncode, run.stdout) == (0, "")
    said = run.stderr.splitlines()
    assert said[0] == "building base (docker/base/Dockerfile changed), about 4.0 s"
    assert said[1].startswith("built base in 0.")
    assert said[1].endswith(" s, 0 of 5 steps cached, 231 MB")
    assert said[2:7] == [
        "      0.0 s  builder 2/4 WORKDIR /build",
        "      0.0 s  builder 3/4 COPY requirements.txt .",
        "      2.1 s  builder 4/4 RUN echo installing && sleep 2 && printf 'a\\rb\\rc\\n' && echo done",
        "      0.0 s  stage-1 2/3 COPY --from=builder /build /app",
        '      0.1 s  stage-1 3/3 RUN echo "line one" && echo err >&2',
    ]
    assert said[7].startswith("building auth")
    assert said[-1].startswith("2 built, in 0.")


def test_nothing_to_do_is_one_line_and_costs_no_rich(project: Path) -> None:
    (project / "fresh").touch()
    with (project / "dodo.py").open("a") as dodo:
        dodo.write("import atexit; atexit.register(lambda: print('rich' in sys.modules))\n")
    argv = [sys.executable, "-m", "doit", "run", "--backend=json", "images"]
    run = subprocess.run(argv, cwd=project, capture_output=True, text=True)  # a fork has imported rich
    assert (run.stderr, run.stdout) == ("6 images fresh\n", "False\n")


def test_a_failure_is_said_once_and_its_children_are_not_built(project: Path) -> None:
    run = doit(project, "images")
    assert run.returncode != 0
    assert run.stderr.count("failed broken: it is\n  second line\n") == 1
    assert "UnmetDependency" not in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith(
        "3 built, 1 failed (broken), 2 not built (above, top: `broken` failed), in "
    )


def test_what_a_failure_kept_from_being_begun_is_named(project: Path) -> None:
    said = doit(project, "run", "--no-continue", "images:top").stderr.splitlines()
    assert said[-1].startswith("1 built, 1 failed (broken), 2 not begun (above, top), in ")


def test_blocks_of_images_that_are_built_at_once_do_not_mix(project: Path) -> None:
    (project / "pause").write_text("0.002")
    said = doit(project, "images:base", "images:store").stderr.splitlines()
    for place, line in enumerate(said):
        if line.startswith("built "):
            assert all(step.startswith("    ") for step in said[place + 1 : place + 6])


def test_verbosity_2_shows_what_buildkit_says(project: Path) -> None:
    said = doit(project, "run", "-v", "2", "images:base").stderr
    assert "base | #8 [builder 4/4] RUN echo installing" in said
    assert "base | #8 0.129 installing" in said
    assert "base | #8 DONE 2.1s" in said
    assert "base |" not in doit(project, "images:base").stderr


def test_other_tasks_are_a_line_and_their_output_passes_through(project: Path) -> None:
    run = doit(project, "other")
    assert (run.stderr, run.stdout) == (".  other\n", "its own output\n")
    assert doit(project, "told").stderr == "told: It says what it does\n"


def test_a_failure_ends_with_the_failure_and_says_its_reason_once(project: Path) -> None:
    (project / "fresh").touch()
    assert doit(project, "images", "trouble").stderr == "!! trouble failed: file:3: no such thing (make it)\n"
    said = doit(project, "trouble", "again", "images").stderr
    assert said.count("no such thing") == 1
    (project / "fresh").unlink()
    assert doit(project, "images:base", "trouble").stderr.splitlines()[-1].startswith("1 built, `trouble` failed, in ")


def test_quiet_says_only_what_fails(project: Path) -> None:
    told = io.StringIO()
    board = Board(told, quiet=True)
    board.started("base", Action.BUILD)
    board.ended("base", ImageState.BUILT)
    board.say("it is so")
    board.fail("auth", "failed auth: it is")
    assert told.getvalue() == "failed auth: it is\n"


def test_a_quiet_task_is_silent(project: Path) -> None:
    run = doit(project, "quiet")
    assert (run.stderr, run.stdout) == ("", "data\n")


def test_a_trouble_is_a_sentence_and_what_needs_it_says_so(project: Path) -> None:
    run = doit(project, "trouble", "after")
    assert "!! trouble failed: file:3: no such thing (make it)\n" in run.stderr
    assert "!! after: not run, `trouble` failed\n" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_bug_keeps_its_traceback(project: Path) -> None:
    said = doit(project, "bug").stderr
    assert "!! bug failed:" in said
    assert "ZeroDivisionError" in said


def test_an_output_file_of_doit_gets_the_lines(project: Path) -> None:
    run = doit(project, "run", "-o", "out.txt", "images:base")
    assert run.stderr == ""
    assert (project / "out.txt").read_text().startswith("building base")


class Terminal:
    """A command on a terminal of a given size, that is emulated in memory."""

    def __init__(self, project: Path, width: int, height: int, *args: str, **environ: str) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(project)
            # Workers of pytest-xdist have COLUMNS, which rich believes more than the terminal.
            taken = ("CI", "COLUMNS", "LINES", "NO_COLOR", "STY", "XTERM_VERSION")
            env = {name: value for name, value in os.environ.items() if name not in taken}
            env |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONUTF8": "1", **environ}
            os.execve(sys.executable, [sys.executable, "-m", "doit", *args], env)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, seconds: float) -> bool:
        """Read for so long; whether the command still runs."""
        goes_on = lasting(seconds)
        while goes_on():
            if select.select([self._fd], [], [], seconds)[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:
                    return False
                self.raw += data
                self._stream.feed(data)
        return True

    def wait_for(self, text: str) -> list[str]:
        def is_shown() -> bool:
            running = self.read(0.1)
            shown = any(text in line for line in self.screen.display)
            assert running or shown, f"{text!r} never came:\n" + "\n".join(self.screen.display)
            return shown

        until(is_shown, lambda: f"{text!r}:\n" + "\n".join(self.screen.display))
        return [line.rstrip() for line in self.screen.display]

    def narrow(self, width: int) -> None:
        """Make the window narrower: the lines on it are wrapped again, as nearly all terminals do."""
        self.read(0.1)
        height, cursor = self.screen.lines, self.screen.cursor.y
        shown = [line.rstrip() for line in self.screen.display[: cursor + 1]]
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self._stream.feed("\r\n".join(shown).encode())
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def finish(self) -> tuple[int, list[str]]:
        while self.read(0.2):
            pass
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return status, [line.rstrip() for line in self.screen.display if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_board(project: Path, width: int) -> None:
    (project / "held").write_bytes(base64.b64encode(b"installing\n"))  # which the fourth step writes
    terminal = Terminal(project, width, 30, "images:auth", "images:store")
    seen = terminal.wait_for("builder 4/4 RUN")
    (project / "go on").touch()
    assert any(line.startswith("· auth") and line.endswith("waits for base") for line in seen)
    assert any(line[2:6] == "base" and "of ~4.0 s" in line for line in seen)
    assert any("of 3 images" in line and "%" in line for line in seen)
    status, left = terminal.finish()
    assert status == 0
    assert len(left) == 4, left  # three lines of finished images, one summary, nothing of the board
    assert left[0].startswith(("✓ built base", "✓ built store"))
    assert left[-1].startswith("3 built, in ")
    assert not terminal.screen.cursor.hidden


def test_a_window_that_is_made_narrower_keeps_no_fragments(project: Path) -> None:
    (project / "held").write_bytes(base64.b64encode(b"installing\n"))
    terminal = Terminal(project, 120, 30, "images:auth", "images:store")
    terminal.wait_for("builder 4/4 RUN")
    terminal.narrow(50)
    drawn = terminal.wait_for("of 3 images")
    assert sum("waits for base" in line for line in drawn) == 1, drawn
    (project / "go on").touch()
    _, left = terminal.finish()
    assert not [line for line in left if "waits for" in line or "%" in line or "of ~" in line], left


def test_ctrl_c_leaves_the_terminal_clean(project: Path) -> None:
    (project / "pause").write_text("0.3")
    terminal = Terminal(project, 80, 60, "images:base")
    terminal.wait_for("load build definition")
    os.kill(terminal.pid, signal.SIGINT)
    status, left = terminal.finish()
    assert status != 0
    assert not terminal.screen.cursor.hidden
    assert any(line.startswith("interrupted: 1 stopped, in ") for line in left), left
    assert not any("load build definition" in line for line in left)


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}])
def test_plain_lines_on_a_terminal_for_those_who_ask(project: Path, environ: dict[str, str]) -> None:
    terminal = Terminal(project, 100, 30, "images:base", **environ)
    status, left = terminal.finish()
    assert status == 0
    assert b"\x1b[" not in terminal.raw
    assert left[0].startswith("building base")


def test_the_board_steps_aside_for_the_output_of_other_tasks(project: Path) -> None:
    (project / "pause").write_text("0.02")
    terminal = Terminal(project, 80, 30, "images:base", "other")
    status, left = terminal.finish()
    assert status == 0
    assert ".  other" in left
    assert "its own output" in left


def test_a_high_board_is_cut_to_the_terminal() -> None:
    board = Board(io.StringIO())
    board.expect({f"image{n}": [] for n in range(50)})
    board.plan({f"image{n}": (Action.BUILD, 1.0) for n in range(50)})
    drawn = [line.plain for line in lines(Picture(board.rows, lambda: 1, 0.0), time.monotonic(), 80, 12)]
    assert len(drawn) == 9
    assert drawn[-2].strip() == "… and 43 more"


@given(
    st.dictionaries(st.text("abcdef/-", min_size=1, max_size=30), st.text(max_size=300), max_size=12),
    st.integers(1, 200),
    st.integers(1, 60),
    st.booleans(),
)
def test_no_line_is_wider_than_the_terminal(images: dict[str, str], width: int, height: int, unicode: bool) -> None:
    rows = {}
    for number, (image, doing) in enumerate(images.items()):
        rows[image] = Row(
            image,
            state=ImageState.RUNNING if number % 2 else ImageState.UNKNOWN,
            action=Action.BUILD,
            doing=doing.replace("\n", " "),
            began=time.monotonic(),
        )
    for line in lines(Picture(rows, lambda: 1, 0.0), time.monotonic(), width, height, unicode=unicode):
        assert len(line.plain) <= max(width, 40)


def test_the_whole_is_forecast_from_history() -> None:
    board = Board(io.StringIO())
    board.expect({"base": [], "auth": ["base"], "memory": ["base"]})
    board.plan({"base": (Action.BUILD, 10.0), "auth": (Action.BUILD, 4.0), "memory": (Action.BUILD, 6.0)})
    rows = list(board.rows.values())
    assert remaining(rows, 1, 0.0) == 20.0
    assert remaining(rows, 2, 0.0) == 16.0
    assert overall(rows, 0.0) == 0.0
    board.started("base", Action.BUILD)
    assert overall(rows, board.rows["base"].began + 5) == pytest.approx(0.25)
    board.ended("base", ImageState.BUILT)
    assert overall(rows, time.monotonic()) == pytest.approx(0.5)
    board.plan({"auth": (Action.BUILD, None)})
    assert remaining(rows, 1, 0.0) is None


def test_every_end_is_an_end() -> None:
    for state in (*GOOD, *BAD):
        assert Row("x", state=state).over
    assert not Row("x").over


def test_a_build_that_was_started_again_says_its_end_again() -> None:
    said = io.StringIO()
    board = Board(said)
    for _ in range(2):
        board.started("auth", Action.BUILD)
        board.ended("auth", ImageState.BUILT, progress=Progress())
    assert [line.split(" in ")[0].strip() for line in said.getvalue().splitlines()] == [
        "building auth",
        "built auth",
    ] * 2


def test_words() -> None:
    assert because([]) == ""
    assert because(["a", "b"]) == " (a; b)"
    assert because(["a", "b", "c", "d", "e"]) == " (a; b; c; 2 more)"
    assert [seconds_text(s) for s in (0.04, 9.94, 9.96, 99.4, 185, 7260)] == [
        "0.0 s",
        "9.9 s",
        "10 s",
        "99 s",
        "3 min 05 s",
        "2 h 01 min",
    ]
