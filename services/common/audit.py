"""Who did what? A line of the log for each login, change of an account, key and deletion: ``"logger": "audit"``.

It says who, from where, in which request, and what it was done to; never a secret or a text of the user. The lines come
at every LOG_LEVEL. How long they are kept is up to what keeps the log.
"""

from __future__ import annotations

import logging
from typing import Any

from common import metrics
from common.logs import address

log = logging.getLogger("audit")
log.setLevel(logging.INFO)


def record(event: str, who: Any, **what: object) -> None:
    """Say that ``event`` happened, done by ``who`` (by ``user_id`` and ``username``; None: nobody known), with ``what``
    besides."""
    by = {} if who is None else {"user_id": str(who.user_id), "username": who.username}
    metrics.AUDITED.labels(event).inc()
    log.info(event, extra={**by, "address": address.get(), **{name: str(value) for name, value in what.items()}})
