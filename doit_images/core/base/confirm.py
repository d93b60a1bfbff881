"""Does the person who runs this agree?"""

from __future__ import annotations

import sys

from doit_images.core.base.errors import UserError


def confirm() -> None:
    """Ask; ``UserError`` unless the answer is yes. Without a terminal nobody can answer."""
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask on", remedy="pass --yes")
    print("type yes to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise UserError("not agreed, so nothing was changed")
