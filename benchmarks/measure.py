"""How long does it take, how often was it measured, and on which machine?

What is compared is measured in turns (``in_turns``): a machine that becomes busy then slows all of them, not one. A
command that fails is fast, so its status is always looked at.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tasks.base import commands
from tasks.base.errors import UserError

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


def in_turns(
    cases: Mapping[str, Callable[[], float]], repeat: int, told: Callable[[str], None] = lambda line: None
) -> dict[str, Timing]:
    """Measure every case ``repeat`` times, one after the other in each round; a case returns its seconds.

    Every other round goes backwards, so that no case always comes after the same one. ``told`` hears about each.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(repeat):
        for name in sorted(cases, reverse=number % 2 == 1, key=list(cases).index):
            seconds = cases[name]()
            found[name].append(seconds)
            told(f"{number + 1}/{repeat} {name}: {seconds:.3f} s")
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def machine() -> dict[str, Any]:
    """What a reader has to know about the machine to judge the figures. No names of hosts, people or folders."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": [round(number, 2) for number in os.getloadavg()],
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "engine": _said(["docker", "version", "--format", "{{.Server.Version}}"]),
        "storage": _said(["docker", "info", "--format", "{{.Driver}}"]),
        "buildx": _said(["docker", "buildx", "version"]).partition(" ")[2].partition(" ")[0],
        "compose": _said(["docker", "compose", "version", "--short"]),
    }


def in_words(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    load = facts["load_average"][0]
    return (
        f"{facts['cpus']} × {facts['cpu'] or 'cpu'}, {facts['memory_gb']:.0f} GB, {facts['system']}, Python "
        f"{facts['python']}, Engine {facts['engine']} ({facts['storage']}), buildx {facts['buildx']}, Compose "
        f"{facts['compose']}; load average {load}"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _said(argv: Sequence[str]) -> str:
    return commands.answer(argv)
