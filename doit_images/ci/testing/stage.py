"""How is a test run that is a stage of a Dockerfile?

BuildKit builds the stage, into its cache and nowhere else, or what it holds into a folder where it leaves a JUnit file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from doit_images.ci.testing.attempt import Trial, ended, log_of
from doit_images.ci.testing.isolation import own_stages
from doit_images.ci.testing.planned import Planned
from doit_images.ci.verifying.once_more import once_more
from doit_images.core.base import leftovers, platforms
from doit_images.core.building import aside
from doit_images.core.building import attempt as building
from doit_images.core.building.events import ImageNoted
from doit_images.core.buildkit import buildx, failure
from doit_images.core.engine.client import LocalImage
from doit_images.core.history.store import Status
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action, rebuilt
from doit_images.core.run import Run
from doit_images.stack import secrets
from doit_images.stack.images import same


def run_stage(run: Run, planned: Planned, inputs: ImageInputs, *, again: bool) -> Trial:
    """Build the stage, when there is room for a build of its image; ``again``: what only the test reaches is not taken
    from a cache. Neither is it where the image was rebuilt without cache: to BuildKit the same steps are one, and what
    it holds of the test's may lie on the layers of before. Raises ``UserError``."""
    image = run.planner.decide(planned.test.service)
    labels = (image.local_image or image.offer or LocalImage("")).labels
    with run.capacity.taken(image.name, lambda text: run.events.emit(ImageNoted(image.name, text))):
        return _built(run, planned, inputs, again=again or rebuilt(labels) > 0)


def ran_on_image(run: Run, planned: Planned) -> bool:
    """Whether the stages that a test shares with its image hold what the image does. BuildKit makes them itself, also
    where the image came from another machine; what it makes of the image from its cache shows it."""
    image = run.planner.decide(planned.test.service)
    if image.local_image is None:  # the registry alone has it, from whoever built it
        wanted = (Action.BUILD, Status.DONE, image.inputs.fingerprint)
        return any(wanted == (each.action, each.status, each.fingerprint) for each in run.history.recent(image.name))
    with once_more(run, image, building.Attempt()) as image_id:
        return same(run.engine, image_id, image.local_image.id)


def _built(run: Run, planned: Planned, inputs: ImageInputs, *, again: bool) -> Trial:
    began, said = time.time(), log_of(run.folder, planned)
    if again:
        own = own_stages(inputs, run.planner.decide(planned.test.service).inputs)
        inputs = replace(inputs, image=replace(inputs.image, no_cache_filter=own))
    with leftovers.folder("test-") as out:
        output = buildx.one_line("type=local", f"dest={out}") if planned.test.junit else "type=cacheonly"
        hide = secrets.hider(run.project.directory, run.build_environ)
        status, progress, moved = aside.build(run, inputs, ["--output", output], said, hide)
        why = failure.explain(inputs.image, progress, inputs.dockerfile_text, said, status) if status else ""
        where = _exported(out, inputs.platforms, run.local_images.snapshot().platform)
        junit = (where, planned.test.junit) if planned.test.junit else None
        return ended(status, began, junit, why)._replace(moved=moved)


def _exported(out: Path, built_for: Sequence[str], engine: str) -> Path:
    """Where what BuildKit exports for the engine's platform lies: each of several platforms has a folder.

    >>> str(_exported(Path("out"), ["linux/amd64", "linux/arm/v7"], "linux/arm/v7"))
    'out/linux_arm_v7'
    >>> str(_exported(Path("out"), ["linux/arm64"], "linux/amd64"))
    'out'
    """
    if len(built_for) < 2:
        return out
    return out / platforms.held(built_for, engine).replace("/", "_")
