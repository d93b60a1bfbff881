"""Which values may be kept and shown?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

_SECRET_NAME = re.compile(r"(TOKEN|PASSW|SECRET|CREDENTIAL|API_?KEY|PRIVATE)", re.IGNORECASE)
_NAMES_A_FILE = re.compile(r"_(FILE|PATH|DIR)$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
# What is shown may hide more than what is kept, which is compared.
_HIDDEN_NAME = re.compile(rf"{_SECRET_NAME.pattern}|PASSPHRASE|_(KEY|PASS|PWD)$", re.IGNORECASE)
# In a word of a command: not the option `--secret`, which names a file.
_ASSIGNED = re.compile(r"(?<![\w-])(\w+)=(?=.)")
# Shorter values are words that may stand anywhere for another reason.
_SHORTEST_HIDDEN = 8
HIDDEN = "hidden:"
MASK = "***"


def safe_arguments(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Arguments or labels as they may be kept and shown: a value whose name or form suggests a secret as its digest."""
    return {name: _safe(name, value) for name, value in values.items()}


def masked(text: str, environ: Mapping[str, str], names: Iterable[str] = ()) -> str:
    """A text that others wrote as it may be shown: ``***`` in place of the values that variables with the name of a
    secret (and these ``names``) have in ``environ``, and of credentials in URLs."""
    secret = {name for name in environ if _HIDDEN_NAME.search(name) and not _NAMES_A_FILE.search(name)} | set(names)
    values = {environ[name] for name in secret if len(environ.get(name, "")) >= _SHORTEST_HIDDEN}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MASK)
    return _CREDENTIALS.sub(f"://{MASK}@", text)


def masked_word(word: str, environ: Mapping[str, str]) -> str:
    """A word of a command line as it may be shown: also without what it gives a variable with the name of a secret."""
    word = masked(word, environ)
    ends = (given.end() for given in _ASSIGNED.finditer(word) if _HIDDEN_NAME.search(given[1]))
    return word[:end] + MASK if (end := next(ends, 0)) else word


def _safe(name: str, value: str | None) -> str | None:
    if value and (_SECRET_NAME.search(name) or _CREDENTIALS.search(value)):
        return HIDDEN + hashlib.sha256(value.encode()).hexdigest()
    return value
