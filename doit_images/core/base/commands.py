"""Every command that we run: how is it started, what became of it, and how do they all stop?

Each command is a process group of its own, and known to us before anything can interrupt us (``stop_on_signals``), so
that Ctrl-C, SIGTERM and a failing neighbour end it with everything that stayed in its group; when we ourselves are
killed, ``guard`` does. What left its group on purpose (a daemon) is not ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, TypedDict

from doit_images.core.base.command_line import last_words, pasteable
from doit_images.core.base.errors import UserError
from doit_images.core.base.guard import MARK, Guard
from doit_images.core.base.masking import masked
from doit_images.core.base.process import Process, interrupt

if TYPE_CHECKING:
    from typing import Unpack

DEVNULL, PIPE, STDOUT = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
_INTERRUPT_SECONDS = 1.0
_SAME_SECONDS = 0.3  # a signal that comes so soon after another is its echo: sudo passes on what the terminal sent too
_WATCH_SECONDS, _BAD_LOOKS = 5.0, 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The run was interrupted; nothing more is started."""


class NotInstalled(UserError):
    """There is no such command on this machine."""


class TimedOut(UserError):
    """A command was stopped because its time was over."""


class Options(TypedDict, total=False):
    """How a command is run. ``cwd`` and ``env`` are this process's if they are not given.

    ``stdin`` are bytes that it reads (they must fit a pipe or be read by the command before it writes), or a file;
    nothing by default. ``stdout`` and ``stderr`` are files as ``subprocess`` takes them. After ``seconds`` it is
    stopped. With ``terminal`` it has our own input, output and process group, so that it can ask its user. With
    ``cleanup`` it is not stopped with the others, and may be started when they are: its caller sees to its end. One
    that ``outlives`` us when we are killed with SIGKILL ends what it began: half of it would be worse. One that
    ``tidies`` up when it is interrupted gets all the time that it takes, until we are asked once more.
    """

    cwd: Path | None
    env: Mapping[str, str] | None
    stdin: bytes | int | IO[bytes] | None
    stdout: int | IO[bytes] | IO[str]
    stderr: int | IO[bytes] | IO[str]
    seconds: float | None
    terminal: bool
    cleanup: bool
    outlives: bool
    tidies: bool


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit status and what it wrote."""

    status: int
    output: bytes
    stderr: str
    environ: Mapping[str, str] = field(repr=False)

    @property
    def stdout(self) -> str:
        """What it wrote to standard output."""
        return self.output.decode(errors="replace")

    @property
    def why(self) -> str:
        """Why it failed, in its own last words, without secrets."""
        return masked(last_words(self.stderr if self.stderr.strip() else self.stdout), self.environ)

    def checked(self, what: str) -> Done:
        """Itself; if it failed, ``UserError`` says ``what`` went wrong, and why."""
        if self.status:
            raise UserError(f"{what}: {self.why}")
        return self


class Commands:
    """All commands of one process: signals reach a process, not a run."""

    def __init__(self) -> None:
        self._running: set[Process] = set()
        self._acts: list[Callable[[], object]] = []
        self._listeners: tuple[Callable[[str], None], ...] = ()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._deferring = False
        self._deferred = 0
        self._heard: list[signal.Signals] = []
        self._asked = 0.0
        self._guard = Guard(_shell)
        self._ask: Callable[[], str] | None = None
        self._watching = False

    def run(self, argv: Sequence[str | Path], **options: Unpack[Options]) -> Done:
        """Run a command to its end and catch what it writes. Raises as ``start`` does; its status is its caller's."""
        options.setdefault("stderr", PIPE)
        with self.start(argv, **options) as process:
            output, stderr = process.communicate()
        environ = os.environ if options.get("env") is None else options["env"]
        return Done(process.returncode, output or b"", (stderr or b"").decode(errors="replace"), environ or {})

    def show(self, argv: Sequence[str | Path], **options: Unpack[Options]) -> int:
        """Run a command to its end with our own input and output; its exit status. Raises as ``start`` does."""
        options["terminal"] = True
        with self.start(argv, **options) as process:
            pass
        return process.returncode

    def answer(self, argv: Sequence[str | Path]) -> str:
        """What a command answers to a small question, without the space around it; "" if it fails or is not there."""
        try:
            done = self.run(argv)
        except NotInstalled:
            return ""
        return done.stdout.strip() if done.status == 0 else ""

    @contextlib.contextmanager
    def start(self, argv: Sequence[str | Path], **options: Unpack[Options]) -> Iterator[Process]:
        """Start a command for a block, with its output and error in one pipe; the block's end waits for it, and neither
        it nor what it started in its group outlives the block.

        Raises ``NotInstalled``, ``TimedOut``, ``UserError`` as ``watch`` says, and ``Stopped`` when the run is being
        stopped, also after the block: what a command left then is not a result.
        """
        process = self.begin(argv, **options)
        timer = threading.Timer(options.get("seconds") or 0, process.time_out)
        timer.daemon = True
        try:
            if options.get("seconds"):
                timer.start()
            if isinstance(data := options.get("stdin"), bytes) and process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(data)
                    process.stdin.close()
                process.stdin = None
            yield process
            process.close()
            process.wait()
        finally:
            timer.cancel()
            process.stop()
            process.wait()
            with self._uninterrupted():
                self._running.discard(process)
                self._guard.forget(process.mark)
            process.close()
        if process.why:
            raise UserError(process.why)
        if process.late:
            raise TimedOut(f"{Path(argv[0]).name} was not done in {options.get('seconds'):.0f} s")
        if self.stopping() and not options.get("cleanup"):
            raise Stopped

    def begin(self, argv: Sequence[str | Path], **options: Unpack[Options]) -> Process:
        """Start a command that its caller ends with ``stop``; raises ``NotInstalled`` and ``Stopped``."""
        cwd, env, stdin = options.get("cwd"), options.get("env"), options.get("stdin")
        terminal, cleanup = options.get("terminal"), options.get("cleanup")
        if self._listeners:
            line = pasteable(argv, cwd, env, stdin if isinstance(stdin, bytes) else None)
            for listener in self._listeners:
                listener(line)
        read = DEVNULL if stdin is None else stdin if not isinstance(stdin, bytes) else PIPE
        with self._uninterrupted():
            if self._stopping.is_set() and not cleanup:
                raise Stopped
            mark = "" if cleanup or options.get("outlives") else self._guard.announce()
            try:
                process = Process(
                    argv,
                    cwd=cwd,
                    env={**(os.environ if env is None else env), MARK: mark} if mark else env,
                    stdin=None if terminal else read,
                    stdout=None if terminal else options.get("stdout", PIPE),
                    stderr=None if terminal else options.get("stderr", STDOUT),
                    start_new_session=not terminal,
                )
            except OSError as error:
                self._guard.forget(mark)
                if not isinstance(error, FileNotFoundError) or (cwd and not cwd.is_dir()):
                    raise
                remedy = "./doitw installs it, or see doit doctor" if argv[0] == "docker" else ""
                raise NotInstalled(f"the {argv[0]} command is not installed", remedy=remedy) from None
            process.grouped, process.mark, process.tidies = not terminal, mark, options.get("tidies", False)
            if not cleanup:
                self._running.add(process)
                self._look_after(process)
        return process

    def watch(self, ask: Callable[[], str]) -> None:
        """From now on, while docker commands run, ask now and then whether their engine works: what is said twice in a
        row, but "", ends them all, and is the error of their blocks."""
        self._ask = ask

    def _look_after(self, process: Process) -> None:
        if self._ask and not self._watching and _is_docker(process):
            self._watching = True
            threading.Thread(target=self._watch, args=(self._ask,), daemon=True).start()

    def _watch(self, ask: Callable[[], str]) -> None:
        bad = 0
        while True:
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                running = [process for process in self._running if _is_docker(process)]
                self._watching = bool(running)
            if not running or self.stopping():
                return
            why = ask()
            bad = bad + 1 if why else 0
            if bad >= _BAD_LOOKS:
                for process in running:
                    process.why = why
                interrupt(running, _INTERRUPT_SECONDS)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` from now on with each command before it is started, as it can be pasted into a shell."""
        self._listeners = (*self._listeners, listener)

    def stop_all(self, seconds: float = _INTERRUPT_SECONDS) -> None:
        """End every command that still runs: an interrupt first, which BuildKit answers by cancelling the build, then,
        after ``seconds``, for good, but for those that tidy up. None but those for cleaning up is started from then
        on."""
        with self._uninterrupted():
            self._stopping.set()
            running = list(self._running)
        for act in list(self._acts):
            act()
        interrupt(running, seconds)

    @contextlib.contextmanager
    def when_stopped(self, act: Callable[[], object]) -> Iterator[None]:
        """For the block: ``act`` is called when the run is stopped, before any command is, by the thread that stops
        it."""
        self._acts.append(act)
        try:
            yield
        finally:
            self._acts.remove(act)

    def stopping(self) -> bool:
        """Whether the run is being stopped."""
        return self._stopping.is_set()

    def stop_on_signals(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP stop all commands and end the run with status 128 + signal.

        Only the main thread can do this. doit saves its state on the way out and prints no traceback. Who started us
        with ``nohup`` does not want a terminal that goes to end us.
        """
        if threading.current_thread() is threading.main_thread():
            without = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
            self._heard = [number for number in _SIGNALS if number not in without]
            for number in self._heard:
                signal.signal(number, self._leave)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if self._deferring:
            self._deferred = number
            return
        self._asked = time.monotonic()
        for each in self._heard:
            signal.signal(each, self._leave_at_once)
        self.stop_all()
        raise SystemExit(128 + number)

    def _leave_at_once(self, number: int, frame: FrameType | None) -> None:
        """Asked once more, as by a second Ctrl-C: nothing is waited for."""
        if time.monotonic() - self._asked > _SAME_SECONDS:
            for process in list(self._running):
                process.send(signal.SIGKILL)
            os._exit(128 + number)

    @contextlib.contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """For the block no other thread starts or stops commands, and what a signal asks for is done at its end: a
        process would be unknown if the main thread left between its start and its registration."""
        main = threading.current_thread() is threading.main_thread()
        if main:
            self._deferring = True
        try:
            with self._lock:
                yield
        finally:
            if main:
                self._deferring = False
                if number := self._deferred:
                    self._deferred = 0
                    self._leave(number, None)


def _shell(argv: list[str]) -> IO[bytes]:
    """Start what ``guard`` asks for, away from our group; the end of the pipe that it reads."""
    stderr = None if os.isatty(2) else DEVNULL  # not to hold open what somebody reads to its end
    process = subprocess.Popen(argv, stdin=PIPE, stdout=DEVNULL, stderr=stderr, cwd="/", start_new_session=True)
    if process.stdin is None:
        raise AssertionError("it was asked for")
    process.returncode = 0  # it ends after us: nobody waits for it
    return process.stdin


def _is_docker(process: Process) -> bool:
    argv = process.args if isinstance(process.args, Sequence) else ()
    return Path(str(next(iter(argv), ""))).name.startswith("docker")


_ours = Commands()
run, show, answer, start, begin = _ours.run, _ours.show, _ours.answer, _ours.start, _ours.begin
listen, stop_all, stop_on_signals = _ours.listen, _ours.stop_all, _ours.stop_on_signals
when_stopped, stopping, watch = _ours.when_stopped, _ours.stopping, _ours.watch
