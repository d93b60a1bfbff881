"""Which extra of the package holds a module that is not installed?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from doit_images.core.base.errors import UserError

EXTRAS = {
    "cryptography": "share",
    "redis": "share",
    "urllib3": "share",
    "sigstore": "keyless",
    "watchfiles": "stack",
    "packaging": "ci",
}
"""The extra that brings each module; ``pyproject.toml`` says which distributions."""


@contextlib.contextmanager
def told() -> Iterator[None]:
    """For the block: a module of an extra that is missing is a ``UserError`` that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        remedy = f"pip install 'doit-images[{EXTRAS[name]}]'"
        raise UserError(f"this needs the module {name}, which is not installed", remedy=remedy) from None
