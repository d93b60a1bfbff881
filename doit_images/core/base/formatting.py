"""How are durations, sizes and texts of others shown to people?"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONGEST_REASON = 3


def seconds_text(seconds: float) -> str:
    """A duration for people: ``0.4 s``, ``12 s``, ``3 min 05 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size_text(size: float) -> str:
    """A number of bytes for people, in decimal units as Docker shows it: ``45B``, ``1.2MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}GB"


def cut(text: str, width: int) -> str:
    """The text in at most ``width`` characters; that some are missing shows."""
    if len(text) <= width:
        return text
    return text[: width - 1] + "…" if width > 0 else ""


def because(reasons: Sequence[str]) -> str:
    """Reasons for a line: the first few, and how many more there are."""
    if not reasons:
        return ""
    more = len(reasons) - _LONGEST_REASON
    shown = "; ".join(reasons[:_LONGEST_REASON])
    return f" ({shown}; {more} more)" if more > 0 else f" ({shown})"


def clean(text: str) -> str:
    """Take terminal escapes and control characters out of foreign text, so that printing it is harmless."""
    return _CONTROL.sub("", _ESCAPE.sub("", text))


def cell(text: str) -> str:
    """The text as it can stand in a cell of a Markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def without_usage(doc: str) -> str:
    """What a task's sentence says before it lists what the task takes.

    >>> without_usage("what would be built, why: [IMAGE …] [--json]"), without_usage("Put it in place: FOLDER [--yes]")
    ('What would be built, why', 'Put it in place')
    """
    # `down` and `test_image` have sentences about their options.
    return re.sub(r"(; of one)?[;:] (\[|[A-Z]{2}).*|\.$", "", doc[:1].upper() + doc[1:])
