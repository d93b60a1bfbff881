"""How long does it take, how often was it measured, and on which machine?

What is compared is measured in turns (``in_turns``): a machine that becomes busy then slows all of them, not one. A
command that fails is fast, so its status is always looked at; a round in which one failed is taken again. Before it
begins, a measurement waits until the machine is quiet.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import seconds_text

ROOT = Path(__file__).resolve().parent.parent
TRIES = 3
"""How often a round is taken in which something failed: downloads drop."""
QUIET = 0.5
"""The load average of the last minute at which a machine is quiet."""
PATIENCE = 300.0
"""How many seconds a measurement waits for that."""
MEASURED = ("tasks", "docker", "services", "dodo.py", "docker-compose.yml", "docker-compose.optimized.yml")
"""Where all that is measured stands; a benchmark's own figures are not of it."""
_LAST_LINES = 15


@dataclass(frozen=True)
class Ran:
    """One command that ended well: wall ``seconds``, ``cpu`` seconds of it and its children, ``peak`` bytes of memory
    (of the largest process among them), and what it wrote."""

    seconds: float
    cpu: float
    peak: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Timing:
    """All measurements of one thing, in seconds, in the order in which they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the measurements."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the slowest is from the fastest, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """The figures that a reader needs, rounded to milliseconds."""
        return {
            "median": round(self.median, 3),
            "min": round(min(self.seconds), 3),
            "max": round(max(self.seconds), 3),
            "spread": round(self.spread, 3),
            "runs": len(self.seconds),
        }


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    statuses: Sequence[int] = (0,),
) -> Ran:
    """Run a command to its end and measure it.

    A status that is not among ``statuses`` raises ``UserError`` with its last lines: what failed must not count. The
    peak is never less than what this process takes itself: Linux counts what was there before ``exec``."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        with commands.start(argv, cwd=cwd, env=env, stdout=out, stderr=err) as process:
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    if process.returncode not in statuses:
        said = "\n".join([*texts[0].splitlines(), *texts[1].splitlines()][-_LAST_LINES:])
        command = " ".join(argv[:4])
        raise UserError(f"`{command} …` ended with status {process.returncode}, so it is not measured:\n{said}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit, *texts)


@dataclass
class TimeLeft:
    """How long is left, from what each step took when it was last done."""

    _took: dict[object, float] = field(default_factory=dict)

    def took(self, step: object, seconds: float) -> None:
        """A step was done."""
        self._took[step] = seconds

    def of(self, steps: Iterable[object]) -> str:
        """What these steps will take together, for the end of a line; nothing while one of them was never done."""
        times = [self._took.get(step) for step in steps]
        known = [one for one in times if one is not None]
        return f"; about {seconds_text(sum(known))} left" if known and len(known) == len(times) else ""


def in_turns(
    cases: Mapping[str, Callable[[], float]], repeat: int, told: Callable[[str], None] = lambda line: None
) -> dict[str, Timing]:
    """Measure every case ``repeat`` times, one after the other in each round; a case returns its seconds.

    Every other round goes backwards, so that no case always comes after the same one. A round in which one raises
    ``UserError`` is taken again, all of it, and after ``TRIES`` that error ends it. ``told`` hears about each.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    left = TimeLeft()
    for number in range(repeat):
        began = time.monotonic()
        order = sorted(cases, reverse=number % 2 == 1, key=list(cases).index)
        measured = tried(lambda names=tuple(order): {name: cases[name]() for name in names}, told)  # type: ignore[misc]
        left.took("round", time.monotonic() - began)
        rest = left.of(["round"] * (repeat - number - 1))
        for name, seconds in measured.items():
            found[name].append(seconds)
            told(f"{number + 1}/{repeat} {name}: {seconds:.3f} s{rest if name == order[-1] else ''}")
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def tried(
    round_: Callable[[], dict[str, float]],
    told: Callable[[str], None],
    between: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """What this round measures; it is taken again when it raises ``UserError``, after what is to be done ``between``,
    and the last error stands."""
    for number in range(1, TRIES):
        try:
            return round_()
        except UserError as error:
            told(f"taken again ({number} of {TRIES - 1}), since something failed: {error}")
            between()
    return round_()


def wait_until_quiet(
    told: Callable[[str], None],
    at_most: float = PATIENCE,
    load: Callable[[], float] = lambda: os.getloadavg()[0],
    sleep: Callable[[float], object] = time.sleep,
) -> float:
    """Wait until the load average is below ``QUIET``, at most so many seconds, and say so; the load then."""
    waited, step, found = 0.0, 5.0, load()
    if found >= QUIET:
        most = seconds_text(at_most)
        told(f"waiting for a quiet machine: the load is {found:.2f}, not below {QUIET}; {most} at most")
    while found >= QUIET and waited < at_most:
        sleep(step)
        waited, found = waited + step, load()
    if found >= QUIET:
        told(f"measuring all the same, at a load of {found:.2f}")
    return found


def machine(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a reader has to know to judge the figures: when, at which commit, on which machine, with which versions (of
    the docker command in ``environ``, and of the engine that it talks to there). No names of hosts, people or
    folders."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": [round(number, 2) for number in os.getloadavg()],
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "engine": _said(["docker", "version", "--format", "{{.Server.Version}}"], environ),
        "storage": _said(["docker", "info", "--format", "{{.Driver}}"], environ),
        "buildx": _said(["docker", "buildx", "version"], environ).partition(" ")[2].partition(" ")[0],
        "compose": _said(["docker", "compose", "version", "--short"], environ),
    }


def commit() -> str:
    """The commit of this repository that is measured, with a ``+`` when files of it differ; "" without git."""
    known = _said(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"])
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", *MEASURED])
    return f"{known}+" if known and changed else known


def in_words(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    load = facts["load_average"][0]
    return (
        f"{facts['date']} UTC, commit {facts['commit'] or 'not known'}: {facts['cpus']} × {facts['cpu'] or 'cpu'}, "
        f"{facts['memory_gb']:.0f} GB, {facts['system']}, Python "
        f"{facts['python']}, Engine {facts['engine']} ({facts['storage']}), buildx {facts['buildx']}, Compose "
        f"{facts['compose']}; load average {load}"
    )


def keep(script: Path, content: dict[str, Any], text: str) -> None:
    """Keep figures beside the script that measured them, for programs and for people, and print them."""
    script.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    script.with_suffix(".md").write_text(text)
    print(text)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _said(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """What a command answers to a small question; "" if it fails or is not there."""
    if environ is None:
        return commands.answer(argv)
    done = commands.run(argv, env=environ)
    return "" if done.status else done.stdout.strip()
