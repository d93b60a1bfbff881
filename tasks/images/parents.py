"""How does a build get its parents, and never another image of that name?

BuildKit looks up in a registry what the engine does not hold. A parent that was removed between plan and build would
then be somebody's image of the same name. So a build names each parent by a passing name on port 0 of this machine,
where nothing can ever listen: it means the image with the id that was planned on, keeps it from being removed, and
where it is gone all the same, nobody is asked. A name under ``.invalid`` (RFC 2606) would be asked of the DNS, with its
search domains, and of a proxy. BuildKit keeps no name in its cache keys.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.caches.share import path_of
from tasks.errors import Trouble
from tasks.images.plan import Decision
from tasks.workspace import Workspace

_HOST = "localhost:0"
_PASSING = re.compile(rf"{re.escape(_HOST)}/.+:parent-(\d+)-[0-9a-f]+")


class Vanished(Exception):
    """A parent that the engine held when its child was planned is not there any more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"its parent `{name}` was removed")


@dataclass(frozen=True)
class Pinned:
    """The parents of one build: ``contexts`` maps each context to a passing reference, ``ids`` each parent's name to
    its image, ``shown`` each passing reference to the one that people know."""

    contexts: dict[str, str]
    ids: dict[str, str]
    shown: dict[str, str]

    def lost(self, workspace: Workspace) -> str:
        """Ask the engine anew what it holds; the name of a parent that is not there any more, "" if all are."""
        workspace.changed()
        there = {held.id for held in workspace.snapshot().every()} if self.ids else set()
        return next((name for name, image_id in self.ids.items() if image_id not in there), "")


def made(ref: str) -> float | None:
    """When a passing name of a parent was given, in seconds since the epoch; ``None`` for any other reference. A build
    takes it away at its end, but one that was killed does not.

    >>> made("localhost:0/app/base:parent-1795505378-0a1b"), made("app/base:in-0123456789abcdef")
    (1795505378.0, None)
    """
    found = _PASSING.fullmatch(ref)
    return float(found[1]) if found else None


@contextlib.contextmanager
def pinned(workspace: Workspace, decision: Decision) -> Iterator[Pinned]:
    """For the block: the parents of an image under passing names. ``Vanished`` for a parent that is not there, also
    where that made the block raise ``Trouble``."""
    pins = Pinned({}, {}, {})
    named: dict[str, str] = {}
    try:
        for context, name in decision.surveyed.parents.items():
            known = decision.surveyed.parent_tags[context]
            held = workspace.snapshot().get(known)
            if held is None:
                raise Vanished(name)
            if name not in named:
                tag = f"parent-{int(time.time())}-{os.urandom(6).hex()}"
                ref = f"{_HOST}/{path_of(workspace.project.images[name].ref)}:{tag}"
                pins.ids[name] = held.id
                workspace.engine.tag(held.id, ref)
                named[name] = ref
                pins.shown[ref] = known
            pins.contexts[context] = named[name]
        yield pins
    except Trouble:
        if name := pins.lost(workspace):
            raise Vanished(name) from None
        raise
    finally:
        for ref in named.values():
            workspace.engine.untag(ref)
