"""Record what a command draws on a terminal, as text of a fixed width.

    python benchmarks/record_board.py --width 80 --output docs/pictures/board-80.txt -- ./doitw build_optimized

The command runs on a real terminal of that size whose screen is kept in memory; the screen is written down every
few seconds, and once more at the end. Needs pyte (requirements-dev.txt).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from pathlib import Path

import pyte


def record(argv: list[str], width: int, height: int, every: float) -> tuple[int, list[tuple[float, list[str]]]]:
    """Run ``argv`` and return its exit status and the screens, each with the seconds since the start."""
    screen = pyte.Screen(width, height)
    stream = pyte.ByteStream(screen)
    process, terminal = pty.fork()
    if process == 0:
        env = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
        env |= {"TERM": "xterm-256color", "PYTHONUTF8": "1", "COLUMNS": str(width), "LINES": str(height)}
        os.execvpe(argv[0], argv, env)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    screens: list[tuple[float, list[str]]] = []
    began = last = time.monotonic()
    while True:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not data:
                break
            stream.feed(data)
        now = time.monotonic()
        if now - last >= every:
            last = now
            screens.append((now - began, shown(screen)))
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, [*screens, (time.monotonic() - began, shown(screen))]


def shown(screen: pyte.Screen) -> list[str]:
    """The screen's lines without what is empty at their ends."""
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--height", type=int, default=40)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two screens")
    parser.add_argument("--output", type=Path)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    status, screens = record(asked.command, asked.width, asked.height, asked.every)
    text = [f"$ {' '.join(asked.command)}"]
    for at, lines in screens:
        text += ["", f"─── after {at:.0f} s ".ljust(asked.width, "─"), *lines]
    out = "\n".join(text) + "\n"
    if asked.output:
        asked.output.write_text(out)
    else:
        sys.stdout.write(out)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
