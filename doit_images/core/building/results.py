"""What stays of the work on an image: its names in the engine, its record, and its entry in the history."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import tag_of
from doit_images.core.buildkit import builder
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.history.store import Build, Status
from doit_images.core.local_images import LocalImages
from doit_images.core.planning import checkouts, record
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run


def name_image(engine: Engine, local_images: LocalImages, decision: Decision, image_id: str) -> None:
    """Give an image of the engine all its names, first the one that proves what it is: of one that was pulled or made
    under another fingerprint that is not this one's (``LocalImage.proofs``). Raises ``Stopped`` if the run is, also
    where no command was running that noticed it, and ``UserError``: ``Gone`` if the engine does not have it."""
    if commands.stopping():
        raise commands.Stopped
    image, here = decision.inputs.image, decision.local_image
    proof = here.own_tag(image.ref) if here and here.id == image_id else ""
    refs = [*dict.fromkeys(filter(None, (proof, tag_of(image.ref, decision.inputs.fingerprint), *image.names)))]
    for ref in refs:
        engine.tag(image_id, ref)
    local_images.named(image_id, refs)


def keep_record(folder: Path, decision: Decision, local_image: LocalImage | None, seconds: float) -> None:
    """Write down what the image was made from, and that took so long."""
    inputs = decision.inputs
    parents = {name: inputs.parent_fingerprints[name] for name in dict.fromkeys(inputs.parents.values())}
    entry = record.Record(
        image=inputs.name,
        ref=inputs.image.ref,
        action=decision.action,
        fingerprint=inputs.fingerprint,
        build_inputs=inputs.build_inputs(),
        parents=parents,
        image_id=local_image.id if local_image else "",
        size=local_image.size if local_image else 0,
        finished=time.time(),
        seconds=seconds,
    )
    record.write(folder, entry)
    checkouts.register(folder)


def keep(run: Run, decision: Decision, local_image: LocalImage, began: float) -> None:
    """Keep the record and the history of an image that was pulled or only named."""
    seconds = time.time() - began
    keep_record(run.folder, decision, local_image, seconds)
    more = {"seconds": seconds, "image_id": local_image.id, "size": local_image.size}
    add_to_history(run, decision, Status.DONE, began=began, **more)


def add_to_history(run: Run, decision: Decision, status: Status, *, began: float, **more: Any) -> None:
    """Add what was done about an image since ``began``; ``more`` are further fields of ``Build``, its seconds too. A
    history that cannot be written is said, and fails nothing."""
    entry = Build(
        image=decision.name,
        ref=decision.inputs.image.ref,
        fingerprint=decision.inputs.fingerprint,
        action=decision.action,
        status=status,
        reasons=decision.reasons,
        started=began,
        waited=began - run.began,
        builder=builder.name(run.settings),
        commit=_commit(run.project.directory),
        workers=run.workers,
        run=run.id,
        parents=tuple(dict.fromkeys(decision.inputs.parents.values())),
        **more,
    )
    try:
        run.history.add(entry)
    except UserError as error:  # what was built is there all the same
        run.events.say(f"{decision.name}: {error}")


@cache
def _commit(directory: Path) -> str:
    return commands.answer(["git", "-C", str(directory), "rev-parse", "--short", "HEAD"])
