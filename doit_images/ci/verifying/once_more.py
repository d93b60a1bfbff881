"""How is an image built once more without taking the place of the one that is here?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from doit_images.core.base.errors import UserError
from doit_images.core.building import build_target, prune_lock
from doit_images.core.building.attempt import Attempt, ImageBuild, InputsChanged, Outcome
from doit_images.core.building.events import ImageNoted
from doit_images.core.engine import temporary_tag
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.run import Run


@contextlib.contextmanager
def once_more(run: Run, decision: Decision, attempt: Attempt) -> Iterator[str]:
    """Build an image again, on the parents that are here; for the block, the id of what came out, which then goes.
    ``UserError`` where it cannot be built, or its inputs change meanwhile."""
    build = ImageBuild(run, decision._replace(action=Action.BUILD), attempt)
    build.log = build.log.with_name(f"{build.name}.once-more.log")
    image_id = ""
    temporary_tag.note(run.engine, build.tag)
    try:
        with (
            prune_lock.shared(run.engine, lambda: None),
            run.capacity.taken(build.name, lambda text: run.events.emit(ImageNoted(build.name, text))),
        ):
            outcome = _built(build)
        made = run.local_images.snapshot().get(build.tag)
        transfer = build_target.Transfer.of(run)
        image_id = transfer.import_result(build.inputs, outcome.target.layout, outcome.image_id, made)
        yield image_id
    finally:
        temporary_tag.take_away(run.engine, [build.tag])
        run.local_images.changed()
        _forget(run, decision, image_id)


def _built(build: ImageBuild) -> Outcome:
    try:
        outcome = build.build()
        if outcome.changed:
            raise outcome.changed
    except InputsChanged as changed:
        raise UserError(f"{build.name}: {changed} while it was built again", remedy="run it again") from None
    if outcome.status:
        from doit_images.core.buildkit import failure  # most builds do not fail

        inputs = build.inputs
        raise UserError(
            failure.explain(inputs.image, outcome.progress, inputs.dockerfile_text, build.log, outcome.status)
        )
    return outcome


def _forget(run: Run, decision: Decision, image_id: str) -> None:
    """What a dedicated builder gave to the engine has no name that could be taken away."""
    kept = decision.local_image.id if decision.local_image else ""
    if run.settings.dedicated_builder and image_id not in ("", kept):
        with contextlib.suppress(UserError):  # another run may hold it, under a name
            if not any(each.id == image_id and each.tags for each in run.local_images.snapshot().every()):
                run.engine.remove(image_id)
