"""What may come from a registry instead of an answer? Apart from its client, which builds without one do not load."""

from __future__ import annotations

import re


class Unavailable(Exception):
    """The registry does not answer, not in time, or refuses; the sentence goes on from "the registry …".

    ``silent``: there is no answer at all, so that asking about another image would hardly help.
    """

    def __init__(self, what: str, *, silent: bool = False) -> None:
        super().__init__(what)
        self.silent = silent


class NoImage(Exception):
    """What the registry holds under a name is not a usable image. Other images in it may be good."""


def told(why: str) -> str:
    """What a registry says, as it may be repeated: registries put URLs with signatures into their errors."""
    return re.sub(r"https?://\S+", "…", why)[:200].rstrip(" .:…")
