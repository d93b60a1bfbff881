"""How do tasks print tables to standard output?"""

from __future__ import annotations

import sys

from rich.console import Console

_WIDTH = 160


class Output(Console):
    """Standard output: as wide as a terminal, else of fixed width and without colors. ``BrokenPipeError`` when nobody
    reads it any more, where rich would end the process as a failure."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        super().__init__(width=None if terminal else _WIDTH, no_color=None if terminal else True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the error."""
        raise
