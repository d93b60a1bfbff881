"""How is doit itself run once more, from within a task?"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from doit_images.core.base import commands


def doit(words: Sequence[str]) -> int:
    """Run doit itself with these words, plainly, everything that it says to standard error; its exit status."""
    argv = [sys.executable, "-m", "doit", *words]
    return passed_on(argv, {**os.environ, "CI": os.environ.get("CI") or "1"})


def passed_on(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a command, pass on to standard error what it says, and return its exit status."""
    with commands.start(argv, env=env) as process:
        for data in process.output():
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
    return process.returncode
