"""How does the board look on a terminal?

Rich draws; this module says what: the images that are worked on, those that wait and for whom, and the whole
with a forecast. It is imported only when an image is built or pulled on a terminal. Images that are done leave
one line above the board and vanish from it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.live_render import LiveRender
from rich.segment import Segment
from rich.text import Text

from doit_images.core.base.formatting import cut, seconds_text
from doit_images.core.building.events import ImageState
from doit_images.core.planning.forecast import wall_seconds
from doit_images.core.planning.plan import Action
from doit_images.ui.rows import BAD, GOOD, IDLE, Row

HERTZ = 5
"""How often a second it is drawn."""

# Set in terminals that cut a line off instead: xterm, GNU screen.
_CUT_OFF = ("XTERM_VERSION", "STY")
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPINNER_ASCII = "|/-\\"


def on_terminal(picture: RenderableType) -> Live:
    """What draws a picture on standard error some times a second, and takes it away at the end."""
    live = Live(
        picture,
        console=Console(file=sys.stderr, highlight=False),
        refresh_per_second=HERTZ,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    if not any(os.environ.get(name) for name in _CUT_OFF):
        live._live_render = _Drawn(live.console)
    return live


class _Drawn(LiveRender):
    """What is on the terminal. One that is made narrower wraps its lines, which rich, going back up, does not count."""

    def __init__(self, console: Console) -> None:
        super().__init__("")
        self._console, self._widths = console, [0]

    def position_cursor(self) -> Control:
        """What leads to the beginning of the drawing, to draw again."""
        self._count_rows()
        return super().position_cursor()

    def restore_cursor(self) -> Control:
        """What takes the drawing away."""
        self._count_rows()
        return super().restore_cursor()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich asks what to draw."""
        segments = [one for one in super().__rich_console__(console, options) if isinstance(one, Segment)]
        self._widths = [Segment.get_line_length(line) for line in Segment.split_lines(segments)]
        yield from segments

    def _count_rows(self) -> None:
        if self._shape is not None:
            self._shape = (self._shape[0], sum(max(1, -(-width // self._console.width)) for width in self._widths))


def print_above(live: Live, text: str) -> None:
    """Print a block above what is drawn; the outcome at its beginning is coloured."""
    live.console.print(_marked(text, live.console), soft_wrap=True)


@dataclass(frozen=True)
class Picture:
    """What rich draws: the rows of a board, by image, as they are at the moment of drawing. It also needs to know how
    many images can be worked on at once, and when the board was opened."""

    rows: Mapping[str, Row]
    workers: Callable[[], int]
    opened: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich asks what to draw."""
        now = time.monotonic()
        width, height = options.max_width, options.size.height
        yield Group(*lines(self, now, width, height, unicode=_unicode(console)))


def lines(picture: Picture, now: float, width: int, height: int, *, unicode: bool = True) -> list[Text]:
    """The picture as lines that fit into ``width`` and ``height``."""
    rows = dict(picture.rows)
    running = [row for row in rows.values() if row.state == ImageState.RUNNING]
    waiting = [row for row in rows.values() if row.state == ImageState.UNKNOWN and _will_run(row, rows)]
    names = min(24, max((len(row.image) for row in [*running, *waiting]), default=0))
    spinner = _SPINNER if unicode else _SPINNER_ASCII
    mark = spinner[int(now * HERTZ) % len(spinner)]
    drawn = [_running(row, now, names, width, mark) for row in running]
    drawn += [_waiting(row, rows, names, width, "·" if unicode else ".") for row in waiting]
    room = max(1, height - 4)
    if len(drawn) > room:
        more = len(drawn) - room + 1
        drawn = [*drawn[: room - 1], Text(f"  … and {more} more", style="dim")]
    return [*drawn, _whole(picture, now, width, unicode=unicode)]


def _running(row: Row, now: float, names: int, width: int, mark: str) -> Text:
    elapsed = f"{row.elapsed(now):.0f}"
    right = f"{elapsed} of ~{seconds_text(row.expected)}" if row.expected else f"{elapsed} s"
    line = Text(f"{mark} ", style="cyan")
    line.append(f"{cut(row.image, names):{names}}  ", style="bold")
    room = width - len(line.plain) - len(right) - 2
    line.append(f"{cut(row.doing, room):{max(0, room)}}  ", style="default")
    line.append(right, style="dim")
    return line


def _waiting(row: Row, rows: Mapping[str, Row], names: int, width: int, mark: str) -> Text:
    unfinished = [name for name in row.parents if name in rows and not rows[name].over]
    what = f"waits for {', '.join(unfinished)}" if unfinished else row.doing or "waits for its turn"
    line = f"{mark} {cut(row.image, names):{names}}  {what}"
    return Text(cut(line, width), style="dim")


def _will_run(row: Row, rows: Mapping[str, Row]) -> bool:
    """Whether an image that doit has not asked about yet will be worked on: as planned, else as its parents are."""
    if row.action:
        return row.action not in (Action.FRESH, Action.BROKEN)
    parents = [rows[name] for name in row.parents if name in rows]
    return any(
        parent.state not in IDLE and (parent.state != ImageState.UNKNOWN or _will_run(parent, rows))
        for parent in parents
    )


def _whole(picture: Picture, now: float, width: int, *, unicode: bool) -> Text:
    rows = dict(picture.rows)
    touched = [row for row in rows.values() if row.state not in IDLE]
    concerned = [row for row in touched if row.over or row.began or _will_run(row, rows)]
    done = sum(row.over for row in concerned)
    share = overall(concerned, now)
    cells = max(10, min(30, width - 50))
    full = round(share * cells)
    left = remaining(concerned, picture.workers(), now)
    line = Text("  ")
    line.append(("━" if unicode else "#") * full, style="green")
    line.append(("─" if unicode else "-") * (cells - full), style="dim")
    line.append(f" {share:4.0%}  ")
    line.append(f"{done} of {len(concerned)} images, {seconds_text(now - picture.opened)}", style="dim")
    if left is not None:
        line.append(f", about {seconds_text(left)} left", style="dim")
    line.truncate(width)
    return line


def overall(rows: list[Row], now: float) -> float:
    """The share of the work that is done: images weigh what history says they take, the unknown the average."""
    known = [row.expected for row in rows if row.expected]
    usual = sum(known) / len(known) if known else 1.0
    weights = [row.expected or usual for row in rows]
    done = [weight * _share(row, now) for row, weight in zip(rows, weights, strict=True)]
    return sum(done) / sum(weights) if rows else 0.0


def _share(row: Row, now: float) -> float:
    if row.over:
        return 1.0
    if row.state != ImageState.RUNNING:
        return 0.0
    by_steps = row.done / row.total if row.total else 0.0
    by_time = row.elapsed(now) / row.expected if row.expected else by_steps
    return min(0.98, by_time)


def remaining(rows: list[Row], workers: int, now: float) -> float | None:
    """Seconds until all is done, or ``None`` when history does not know every image that is left."""
    left = {row.image: row for row in rows if not row.over}
    if any(row.expected is None for row in left.values()):
        return None
    parents = {image: [name for name in row.parents if name in left] for image, row in left.items()}
    seconds = {image: max(0.0, (row.expected or 0.0) - row.elapsed(now)) for image, row in left.items()}
    return wall_seconds(parents, seconds, workers)


def _marked(text: str, console: Console) -> Text:
    first, _, rest = text.partition("\n")
    word = first.partition(" ")[0]
    good, bad = ("✓ ", "✗ ") if _unicode(console) else ("", "")
    if word in GOOD:
        marked = Text(good, style="green") + Text(first, style="default")
    elif word in BAD:
        marked = Text(bad, style="bold red") + Text(first, style="bold red")
    else:
        marked = Text(first)
    return marked + Text(f"\n{rest}") if rest else marked


def _unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
