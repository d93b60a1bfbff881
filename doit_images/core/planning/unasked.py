"""How is something decided whose answer depends on what other machines have to be asked first?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedRef

Decided = TypeVar("Decided")


class Unasked(Exception):
    """Shared results that have to be asked about before anything can be decided."""

    def __init__(self, refs: Mapping[str, SharedRef]) -> None:
        super().__init__()
        self.refs = refs


def settled(decide: Callable[[], Decided], ask: Callable[[Mapping[str, SharedRef]], object]) -> Decided:
    """What ``decide`` returns. Where it raises ``Unasked``, having given up its locks, ``ask`` is called, and then
    ``decide`` again."""
    while True:
        try:
            return decide()
        except Unasked as unasked:
            refs = unasked.refs
        ask(refs)
