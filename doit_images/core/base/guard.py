"""What ends our commands when we are killed with SIGKILL?

A shell that waits for the end of a pipe that only this process can write to. Each command is announced to it before it
is started, and has the announced mark in its environment: so also one that was started in the very moment in which we
were killed is found, and what it started in turn. It is interrupted first, as by Ctrl-C, then killed. Where there is
no ``/proc`` (macOS), nothing is found.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

MARK = "DOIT_IMAGES_COMMAND"
"""The variable of the environment by which a command is found."""

# Interrupted at once, killed a second later. A board that was being drawn has hidden the cursor.
_SCRIPT = r"""
trap '' INT TERM HUP QUIT TSTP TTOU PIPE
open=' '
while read -r sign number; do
    case $sign in
        +) open="$open$number " ;;
        -) open="${open%% $number *} ${open#* $number }" ;;
    esac
done
[ ! -t 2 ] || printf '\033[?25h' >&2
[ "$open" != ' ' ] || exit 0
run=$1
set --
for number in $open; do set -- "$@" -e "$run.$number"; done
found() { grep -lzsxF "$@" /proc/[0-9]*/environ | cut -d / -f 3; }
each() { for pid in $all; do kill -s "$1" -- "-$pid" "$pid"; done 2>/dev/null; }
all=$(found "$@"); each INT
for _ in 1 2 3 4 5 6 7 8 9 10; do
    all=$(found "$@")
    [ -n "$all" ] || exit 0
    sleep 0.1
done
each KILL
all=$(found "$@"); each KILL
"""


class Guard:
    """The shell that outlives us, begun with the first command by ``start``, which starts one and gives the end of the
    pipe that it reads. Not for several threads at once."""

    def __init__(self, start: Callable[[list[str]], IO[bytes]]) -> None:
        self._start = start
        self._pipe: IO[bytes] | None = None
        self._id = os.urandom(6).hex()
        self._count = 0

    def announce(self) -> str:
        """A command is about to be started: the value of ``MARK`` in its environment."""
        if not self._count and Path("/proc/self/environ").exists():
            with contextlib.suppress(OSError):
                self._pipe = self._start(["/bin/sh", "-c", _SCRIPT, "sh", f"{MARK}={self._id}"])
        self._count += 1
        self._say(f"+ {self._count}")
        return f"{self._id}.{self._count}"

    def forget(self, mark: str) -> None:
        """The command with this mark has ended, with its group."""
        if mark:
            self._say(f"- {mark.partition('.')[2]}")

    def _say(self, line: str) -> None:
        if self._pipe:
            try:
                os.write(self._pipe.fileno(), f"{line}\n".encode())
            except OSError:  # somebody has killed it
                self._pipe = None
