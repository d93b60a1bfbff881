"""When was that? Times as the engine, BuildKit and buildx write them, and as documents want them."""

from __future__ import annotations

import re
import time
from typing import Any

DAY = 86400.0
"""The seconds of a day."""


def epoch_seconds(stamp: Any) -> float:
    """Seconds since the epoch of an RFC 3339 time, or of one as Go prints it; 0 for Go's "never" and for what is no
    time. Of nine digits of a second six count, as Python reads them.

    >>> epoch_seconds("2026-11-24T07:29:38.905736163Z")
    1795505378.905736
    >>> epoch_seconds("2026-11-24 08:29:38.5 +0100 CET")
    1795505378.5
    >>> epoch_seconds("0001-01-01T00:00:00Z")
    0.0
    """
    from datetime import datetime

    try:
        return max(0.0, datetime.fromisoformat(re.sub(r" ([+-]\d{4}) .*", r"\1", stamp)).timestamp())
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0


def utc(seconds: float) -> str:
    """Seconds since the epoch as an RFC 3339 time, in whole seconds.

    >>> utc(1795505378.9)
    '2026-11-24T07:29:38Z'
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
