"""How do tasks print tables to standard output?"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

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


def table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """A table without lines; the columns with ``numbers`` stand behind the others, at the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        made.add_column(heading, overflow="fold")
    for heading in numbers:
        made.add_column(heading, justify="right")
    return made
