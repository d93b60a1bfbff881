"""When was a name given that lasts only as long as a build?

A build gives its result a temporary name until it is known to be good, and takes it away at its end; one that was
killed leaves it behind. Whoever tidies up must know how old it is. The image does not tell: ``SOURCE_DATE_EPOCH`` sets
when it was made. So the time is in the name."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator

from doit_images.core.base import leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine, Gone

NAME = "name"
"""The kind of what ``leftovers`` keeps of a name: the engine's address and the reference follow."""
LENT = "lent"
"""The kind of a name in a registry, for the time of a push or a pull; it is followed by the same."""
_TAG = re.compile(r"(?:building|parent)-(\d{10,})-[0-9a-f]{12}|building-[0-9a-f]{12}")


def make(kind: str) -> str:
    """A tag of this kind (``building``, ``parent``) that no other build has."""
    return f"{kind}-{int(time.time())}-{os.urandom(6).hex()}"


def note(engine: Engine, ref: str) -> None:
    """This temporary name is about to be given: should we be killed, the next run takes it away."""
    leftovers.made(NAME, engine.address, ref)


def take_away(engine: Engine, refs: Iterable[str]) -> None:
    """Take temporary names away, also those that were never given. One that stays, since the engine does not answer, is
    ``doctor --fix``'s: it neither keeps the others nor fails or hides what the block that gave it came to."""
    for ref in refs:
        with contextlib.suppress(UserError):
            engine.untag(ref)
            for kind in (NAME, LENT):
                leftovers.gone(kind, engine.address, ref)


def borrow(engine: Engine, ref: str) -> str:
    """This name in a registry is about to be given until it is taken away; the id of the image that has it already, ""
    for none. Only a name that nobody had is to be taken away, by ``give_back`` or by the next run."""
    before = engine.tagged(ref).partition(" ")[0]
    if not before:
        leftovers.made(LENT, engine.address, ref)
    return before


def give_back(engine: Engine, ref: str) -> None:
    """Take a name away that was borrowed, unless an image had it before."""
    if leftovers.has(LENT, engine.address, ref):
        take_away(engine, [ref])


@contextlib.contextmanager
def lent(engine: Engine, image_id: str, ref: str) -> Iterator[None]:
    """For the block an image goes by this name, too, and then what went by it before: where images are called after the
    registry that they are shared through, this may be a name of its own. ``Gone`` where the image is not here."""
    before = borrow(engine, ref)
    try:
        if before != image_id:
            engine.tag(image_id, ref)
        yield
    finally:
        give_back(engine, ref)
        if before not in ("", image_id):
            try:
                engine.tag(before, ref)
            except Gone:  # it went while another image had its name
                take_away(engine, [ref])


def given(ref: str) -> float | None:
    """When a temporary name was given, in seconds since the epoch; None for any other reference. One from before names
    held their time is as old as can be.

    >>> given("app/base:building-1795505378-0a1b2c3d4e5f"), given("app/base:in-0123456789abcdef")
    (1795505378.0, None)
    >>> given("app/base:building-0a1b2c3d4e5f")
    0.0
    """
    match = _TAG.fullmatch(ref.rpartition(":")[2])
    return float(match[1] or 0) if match else None
