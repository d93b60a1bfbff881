"""Which run builds an image, when several on this machine want it at once?

The first; the others wait, and find it in the engine. What they want is told by the fingerprint: two checkouts with
other content do not wait for each other. Between machines, a lease settles it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Iterator
from pathlib import Path

from doit_images.core.base import commands, leftovers, lock
from doit_images.core.base.references import tag_of
from doit_images.core.building import prune_lock
from doit_images.core.building.events import ImageNoted
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Decision
from doit_images.core.planning.shared_image import SharedRef, shared_ref_of
from doit_images.core.run import Run


class Elsewhere(Exception):
    """Another machine builds it, and is not waited for."""


@contextlib.contextmanager
def taken(run: Run, decision: Decision) -> Iterator[bool]:
    """Hold the build lock of this image for the block: no other run on this machine builds it then. Gives true if
    another run may have built it since the decision. Raises ``Stopped`` when the run is stopped, and ``UserError`` if
    the lock cannot be taken."""
    inputs = decision.inputs
    path = lock.of_engine(run.engine.address, "image", inputs.fingerprint or inputs.input_digest)

    def waits() -> None:
        run.events.emit(ImageNoted(decision.name, f"waits for {lock.holder(path) or 'another run'}, which builds it"))

    with leftovers.noted(path), lock.passing(path, _who(run.files[0].parent), waits):
        if run.settings.registry_only:
            yield _asks_again(run, inputs)
        else:
            there = run.engine.tagged(tag_of(inputs.image.ref, inputs.fingerprint)) if inputs.fingerprint else ""
            yield bool(there)


@contextlib.contextmanager
def leased(run: Run, shared_ref: SharedRef, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lease of an image for the block: no other machine builds it then. Forgets what the registry was known to
    hold of it. A machine that may not push takes no lease: it only waits until no other machine builds the image, and
    gets true if one may begin again by now. Raises ``Stopped`` when the run is stopped, and ``Elsewhere`` if another
    machine builds the image and ``wait`` is false."""

    def waits(who: str) -> None:
        if not wait:
            raise Elsewhere
        prune_lock.let_go(run)
        run.events.emit(ImageNoted(name, f"waits for {who}, which builds it"))

    leases, again, asked = run.peers.leases, False, (shared_ref.turn, waits, run.expected.builds.get(name))
    with contextlib.ExitStack() as held:
        if run.peers.results.writes:
            held.enter_context(leases.acquire(*asked))
        else:
            again = leases.watch(*asked)
        if commands.stopping():
            raise commands.Stopped
        run.peers.results.forget(shared_ref)
        yield again


def _asks_again(run: Run, inputs: ImageInputs) -> bool:
    """The next question whether the registry holds this image is put to the registry; false for one that it never
    holds."""
    if shared_ref := shared_ref_of(inputs, run.local_images.snapshot().platform):
        run.peers.results.forget(shared_ref)
    return shared_ref is not None


def _who(folder: Path) -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # nobody with a name
        user = str(os.geteuid())
    return f"the run of {user} in {folder} (process {os.getpid()})"
