"""What did runs leave that were killed, and how does it go?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from doit_images.core.base import leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine
from doit_images.stack import copies, one_container


def sweep(journals: Iterable[Path]) -> int:
    """Remove what the processes had only for their own time that wrote these; how much that was. Where an engine does
    not answer, what is there, and the journal that tells of it, are left to a later run."""
    removed = 0
    for journal in journals:
        whole = True
        for entry in sorted(leftovers.entries(journal)):  # a container goes before the volume that it uses
            match entry:
                case (leftovers.PATH, path):
                    removed += leftovers.remove(Path(path))
                case (leftovers.ASIDE, aside, target):
                    removed += leftovers.bring_back(Path(aside), Path(target))
                case (temporary_tag.NAME, address, ref) if temporary_tag.given(ref) is None:
                    continue  # no name of ours
                case (temporary_tag.NAME | temporary_tag.LENT, address, ref):
                    taken = _take_away(address, ref)
                    removed, whole = removed + bool(taken), whole and taken is not None
                case (one_container.KIND | copies.VOLUME | copies.PAUSED, address, _) if not _answers(address):
                    whole = False
                case (one_container.KIND, address, name):
                    removed += one_container.remove(address, name)
                case (copies.VOLUME, address, name):
                    removed += copies.remove_volume(address, name)
                case (copies.PAUSED, address, name):
                    copies.go_on(address, name)
        if whole:
            journal.unlink(missing_ok=True)
    return removed


def _take_away(address: str, ref: str) -> bool | None:
    """Whether a name was there to be taken away; None if its engine does not answer."""
    engine = Engine(address)
    try:
        if not engine.tagged(ref):
            return False
        engine.untag(ref)
    except UserError:
        return None
    return True


def _answers(address: str) -> bool:
    try:
        Engine(address).info()
    except UserError:
        return False
    return True
