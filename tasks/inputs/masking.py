"""Which values of arguments and labels may be kept and shown?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(r"(TOKEN|PASSW|SECRET|CREDENTIAL|API_?KEY|PRIVATE)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
HIDDEN = "hidden:"


def safe_arguments(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Arguments or labels as they may be kept and shown: a value whose name or form suggests a secret as its digest."""
    return {name: _safe(name, value) for name, value in values.items()}


def _safe(name: str, value: str | None) -> str | None:
    if value and (_SECRET_NAME.search(name) or _CREDENTIALS.search(value)):
        return HIDDEN + hashlib.sha256(value.encode()).hexdigest()
    return value
