"""Which values may be kept and shown?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote, quote_plus, unquote

_SECRET_NAME = re.compile(r"(TOKEN|PASSW|SECRET|CREDENTIAL|API_?KEY|PRIVATE)", re.IGNORECASE)
_NAMES_A_FILE = re.compile(r"_(FILE|PATH|DIR)$", re.IGNORECASE)
# A password may hold an @ that nobody encoded, so up to the last one; quotes end what is quoted.
_CREDENTIALS = re.compile(r"://[^/\s\"'<>]+@")
# Of the value of a variable, which is a URL and nothing else: all before the last @.
_PASSWORD = re.compile(r"^[a-z][a-z0-9+.-]*://[^:/@\s]*:(\S+)@", re.IGNORECASE)
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
    secret (and these ``names``) have in ``environ``, also of a line of one that has several, of the passwords in those
    that are URLs, as a URL, JSON or XML writes them too, and of credentials in URLs."""
    return masker(environ, names)(text)


def masker(environ: Mapping[str, str], names: Iterable[str] = ()) -> Callable[[str], str]:
    """What masks one text after the other."""
    secret = {name for name in environ if _HIDDEN_NAME.search(name) and not _NAMES_A_FILE.search(name)} | set(names)
    values = {environ.get(name, "") for name in secret} | {
        found[1] for each in environ.values() if (found := _PASSWORD.match(each))
    }
    spelled = sorted(_spellings(values), key=len, reverse=True)

    def mask(text: str) -> str:
        for value in spelled:
            text = text.replace(value, MASK)
        return _CREDENTIALS.sub(f"://{MASK}@", text)

    return mask


def _spellings(values: Iterable[str]) -> set[str]:
    lines = {line.strip() for value in values for line in value.splitlines()}  # texts are shown line by line
    spelled = {form for value in {*values, *lines} for form in (value, unquote(value))}
    as_bytes = {value.encode(errors="surrogateescape") for value in spelled}  # it may be no UTF-8
    spelled |= {form for data in as_bytes for form in (quote(data, safe=""), quote(data), quote_plus(data))}
    spelled |= {data.decode(errors="replace") for data in as_bytes}  # what others wrote is read like that
    spelled |= {json.dumps(value)[1:-1] for value in spelled}
    xml = {value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for value in spelled}
    spelled |= xml | {value.replace('"', "&quot;") for value in xml}
    return {value for value in spelled if len(value) >= _SHORTEST_HIDDEN}


def masked_word(word: str, mask: Callable[[str], str]) -> str:
    """A word of a command line as it may be shown: also without what it gives a variable with the name of a secret."""
    word = mask(word)
    ends = (given.end() for given in _ASSIGNED.finditer(word) if _HIDDEN_NAME.search(given[1]))
    return word[:end] + MASK if (end := next(ends, 0)) else word


def _safe(name: str, value: str | None) -> str | None:
    if value and (_SECRET_NAME.search(name) or _CREDENTIALS.search(value)):
        return HIDDEN + hashlib.sha256(value.encode()).hexdigest()
    return value
