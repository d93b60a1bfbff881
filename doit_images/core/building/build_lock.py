"""Which run builds an image, when several on this machine want it at once?

The first; the others wait, and find it in the engine. What they want is told by the fingerprint: two checkouts with
other content do not wait for each other. Between machines, a lease settles it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from doit_images.core.around import Peers
from doit_images.core.base import commands, leftovers, lock
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.shared_image import SharedRef


class Elsewhere(Exception):
    """Another machine builds it, and is not waited for."""


@contextlib.contextmanager
def taken(engine: str, inputs: ImageInputs, folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the build lock of an image, with the engine at this address, for the block: no other run on this machine
    builds it then. Others are told that the run in ``folder`` does; ``note`` hears who is waited for. Raises
    ``Stopped`` when the run is stopped, and ``UserError`` if the lock cannot be taken."""
    path = lock.of_engine(engine, "image", inputs.fingerprint or inputs.input_digest)

    def waits() -> None:
        note(f"waits for {lock.holder(path) or 'another run'}, which builds it")

    with leftovers.noted(path), lock.passing(path, _who(folder), waits):
        yield


@contextlib.contextmanager
def leased(peers: Peers, shared_ref: SharedRef, waits: Callable[[str], None], expected: float | None) -> Iterator[bool]:
    """Hold the lease of an image for the block: no other machine builds it then. Forgets what the registry was known to
    hold of it. A machine that may not push takes no lease: it only waits until no other machine builds the image, and
    gets true if one may begin again by now. ``waits`` and ``expected`` as of ``around.Leases``. Raises ``Stopped`` when
    the run is stopped."""
    asked, again = (shared_ref.turn, waits, expected), False
    with contextlib.ExitStack() as held:
        if peers.results.writes:
            held.enter_context(peers.leases.acquire(*asked))
        else:
            again = peers.leases.watch(*asked)
        if commands.stopping():
            raise commands.Stopped
        peers.results.forget(shared_ref)
        yield again


def _who(folder: Path) -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # nobody with a name
        user = str(os.geteuid())
    return f"the run of {user} in {folder} (process {os.getpid()})"
