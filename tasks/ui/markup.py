"""How are the pieces of the report written as HTML? Text that goes in is escaped; what comes out is HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from tasks.buildkit.progress import brief

_CODE = re.compile(r"`([^`]+)`")


def bar(kind: str, begin: float, end: float, wall: float, hint: str) -> str:
    """A bar without a stop for the keyboard, from ``begin`` to ``end`` of ``wall`` seconds."""
    return f'<i class="{kind}" style="{span(begin, end, wall)}" data-tip="{escape(hint)}"></i>'


def span(begin: float, end: float, wall: float) -> str:
    """Where that lies, as CSS: a share of the track's width."""
    left = max(0.0, min(100.0, 100 * begin / wall))
    return f"left:{left:.3f}%;width:{max(0.0, min(100 - left, 100 * (end - begin) / wall)):.3f}%"


def tip(text: str) -> str:
    """The attributes of something that shows ``text`` when it is pointed at or focused."""
    return f'data-tip="{escape(text)}" aria-label="{escape(text)}"'


def legend(items: Sequence[tuple[str, str]]) -> str:
    """What the colours mean: pairs of a CSS class and its meaning."""
    marks = "".join(f'<li><i class="{kind}"></i>{escape(text)}</li>' for kind, text in items)
    return f'<ul class="legend" aria-label="Legend">{marks}</ul>'


def details(summary: str, body: str) -> str:
    """Something to unfold; ``body`` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def number(text: str) -> str:
    """A table's cell, aligned as a number."""
    return f'<td class="n">{escape(text)}</td>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a head that begins with ``#`` is of numbers; a cell is HTML, a whole ``<td>`` or what goes into one."""
    heads = "".join(
        f'<th scope="col"{" class=n" if name.startswith("#") else ""}>{escape(name.lstrip("#"))}</th>' for name in head
    )
    body = "".join(
        f"<tr>{''.join(cell if cell.startswith('<td') else f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def step_name(name: str) -> str:
    """A step's name on one line: flags that only mount something are left out, the hint has them."""
    return f'<code class="line" data-tip="{escape(name)}">{escape(brief(name))}</code>'


def prose(text: str) -> str:
    """A sentence as HTML; what stands in backticks is code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))
