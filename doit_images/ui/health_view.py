"""How does the stack come up, as people see it? On a terminal a live table, elsewhere one line for each change."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from doit_images.core.base import commands
from doit_images.core.base.formatting import seconds_text
from doit_images.stack.events import HealthChecked, ServicesListed, WaitBegan, WaitEnded
from doit_images.stack.health import Health, ServiceHealth
from doit_images.ui.board import wants_live

_COLOURS = {Health.READY: "green", Health.WAITING: "yellow", Health.FAILED: "red", Health.BLOCKED: "red"}


class StackView:
    """Hears the events of a stack and shows them, on standard error; the table of its services on standard output."""

    def __init__(self, *, quiet: bool = False) -> None:
        """``quiet``: show only what is asked for."""
        self._quiet = quiet
        self._drawn = contextlib.ExitStack()

    def heard(self, event: object) -> None:
        """An event of the run (``stack.events``)."""
        match event:
            case WaitBegan(live) if not self._quiet:
                self._begin(live=live and wants_live())
            case HealthChecked(verdicts, seconds) if not self._quiet:
                self._show(verdicts, seconds)
            case WaitEnded():
                self._drawn.close()
            case ServicesListed(rows):
                print_table(rows)

    def _begin(self, *, live: bool) -> None:
        self._live, self._began = live, time.monotonic()
        self._shown: dict[str, str] = {}
        self._verdicts: Mapping[str, ServiceHealth] = {}
        if live:
            from doit_images.ui.live import on_terminal

            drawn = self._drawn.enter_context(on_terminal(self))
            # The terminal is left as it was also where another thread ends the run.
            self._drawn.enter_context(commands.when_stopped(drawn.stop))

    def _show(self, verdicts: Mapping[str, ServiceHealth], seconds: float) -> None:
        """Show how every service is, ``seconds`` after the beginning."""
        if not self._verdicts:  # what is well from the beginning is no news
            self._shown = {name: verdict.words for name, verdict in verdicts.items() if verdict.state == Health.READY}
        self._verdicts = verdicts
        if self._live:
            return
        for name, verdict in verdicts.items():
            if self._shown.get(name) != verdict.words:
                self._shown[name] = verdict.words
                print(f"{seconds_text(seconds):>7}  {name}: {verdict.words}", file=sys.stderr, flush=True)

    def __rich__(self) -> Any:
        """What rich draws: the picture of this moment."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        for name, verdict in self._verdicts.items():
            waits = verdict.state == Health.WAITING and verdict.since
            lasts = seconds_text(time.time() - verdict.since) if waits else ""
            table.add_row(name, Text(verdict.words, _COLOURS[verdict.state]), lasts)
        ready = sum(verdict.state == Health.READY for verdict in self._verdicts.values())
        elapsed = seconds_text(time.monotonic() - self._began)
        table.add_row(Text(f"{ready} of {len(self._verdicts)} ready", "bold"), "", elapsed)
        return table


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as a table to standard output."""
    from rich.text import Text

    from doit_images.core.base.output import Output, table

    drawn = table("service", "state", "addresses", "image")
    for row in rows:
        state = f"{row['state']} ({row['health']})" if row["health"] else row["state"]
        well = row["state"] == "running" and row["health"] in ("", "healthy")
        addresses = "\n".join(f"{address} → {port}" for port, address in row["addresses"].items())
        identity = row["image_id"].removeprefix("sha256:")[:12]
        drawn.add_row(row["service"], Text(state, "green" if well else "red"), addresses, f"{row['image']} {identity}")
    Output().print(drawn)
