"""How is an image built, and what becomes of the result: its names, its record, who gets it?"""

from __future__ import annotations

from typing import NoReturn

from doit_images.core import external_bases
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import seconds_text
from doit_images.core.building import build_target, fetch, results
from doit_images.core.building.attempt import ImageBuild, Outcome
from doit_images.core.building.events import ImageEnded, ImageNoted, ImagesPlanned, ImageState
from doit_images.core.buildkit import builder
from doit_images.core.buildkit.progress import first_word
from doit_images.core.compose import env_files
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import LocalImage
from doit_images.core.history.store import Status, steps_of
from doit_images.core.local_images import LocalImages
from doit_images.core.planning.plan import ANOTHER, Action, Decision, is_for
from doit_images.core.run import Run


def begin(run: Run) -> None:
    """What the first build of a run does, while the others wait."""
    with run.beginning:
        if run.begun:
            return
        run.begun = True
        decisions, env = run.planner.decisions(), run.build_environ
        expected = run.expected.planned(decisions)
        actions = {name: (decision.action, expected.get(name)) for name, decision in decisions.items()}
        run.events.emit(ImagesPlanned(actions))
        built = (decision.inputs.image for decision in decisions.values() if decision.builds)
        for sentence in env_files.unset(built, env):
            run.events.say(sentence)
        if not run.settings.dedicated_builder:  # that one gets its bases as folders, with each build
            chosen = builder.argv(run.settings, run.environ)
            external_bases.introduce(run.local_images, decisions.values(), chosen, env)


def built(build: ImageBuild) -> tuple[Outcome, LocalImage]:
    """Build the image and give it its names. ``UserError`` if that fails, ``InputsChanged`` if it does not count."""
    run, decision = build.run, build.decision
    if run.settings.registry_only:
        run.peers.past_engine.check(decision)
        outcome = _counted(build)
        return outcome, run.peers.past_engine.named(decision, build.labels, outcome.image_id, outcome.seconds)
    if not run.settings.dedicated_builder:  # that one is given no name
        temporary_tag.note(run.engine, build.tag)
    try:
        outcome = _counted(build)
        made = run.local_images.snapshot().get(build.tag)
        transfer = build_target.Transfer.of(run)
        image_id = transfer.import_result(build.inputs, outcome.target.layout, outcome.image_id, made)
        _refuse_foreign(run.local_images, decision, image_id, made)
        results.name_image(run.engine, run.local_images, decision, image_id)
        run.planner.built(build.name)
    finally:
        if not run.settings.dedicated_builder:
            temporary_tag.take_away(run.engine, [build.tag])
    # A dedicated builder's result is in the engine only now. Any other was: to list hundreds of images takes its time.
    made = made or run.local_images.snapshot().get(build.inputs.image.ref) or LocalImage(image_id)
    return outcome, made._replace(id=image_id)


def keep(build: ImageBuild, outcome: Outcome, local_image: LocalImage) -> None:
    """Keep the record and the history of what was built, and let the other machines have it."""
    run, name, decision = build.run, build.name, build.decision
    build_target.clean_up(run.cache_backend, build.inputs)
    results.keep_record(run.folder, decision, local_image, outcome.seconds)
    size = local_image.size
    layers = None if run.settings.registry_only else run.engine.layers(local_image.id)
    _add_to_history(build, outcome, Status.DONE, image_id=local_image.id, size=size, layers=layers)
    made = LocalImage(local_image.id, labels=build.labels, size=size, fixed=False)
    alone = run.settings.registry_only or not (run.settings.cache_registry or run.settings.redis_url)
    if instead := None if alone else run.peers.give(decision, made, outcome.seconds):
        run.events.emit(ImageNoted(name, "another machine shared its result first, which is taken"))
        if pulled := fetch.fetched(run, decision._replace(action=Action.PULL, reasons=(ANOTHER,), offer=instead)):
            run.events.emit(ImageEnded(name, ImageState.PULLED, size=pulled.size))
            return
    run.events.emit(ImageEnded(name, ImageState.BUILT, progress=outcome.progress, size=size))


def _counted(build: ImageBuild) -> Outcome:
    """Build the image. ``UserError`` if that fails, ``InputsChanged`` if it does not count."""
    outcome = build.build()
    if outcome.changed:
        _add_to_history(build, outcome, Status.INPUTS_CHANGED)
        raise outcome.changed
    if outcome.status:
        _failed(build, outcome)
    return outcome


def _refuse_foreign(local_images: LocalImages, decision: Decision, image_id: str, made: LocalImage | None) -> None:
    """``UserError`` where what was built is of another platform than was asked for."""
    platform = local_images.config_of(made or LocalImage(image_id, fixed=False)).platform
    if not is_for(decision.inputs, platform, local_images.snapshot().platform):
        raise UserError(
            f"{decision.name}: {platform} was built, and {', '.join(decision.inputs.platforms)} is wanted",
            remedy="`docker buildx inspect` lists the platforms of the builder",
        )


def _failed(build: ImageBuild, outcome: Outcome) -> NoReturn:
    from doit_images.core.buildkit import failure  # most builds do not fail

    inputs, progress = build.inputs, outcome.progress
    pointed, step = failure.pointed_at(progress.tail), progress.failed()
    _add_to_history(build, outcome, Status.FAILED, steps=steps_of(progress, pointed.start))
    build.run.events.emit(ImageEnded(build.name, ImageState.FAILED, progress=progress))
    if build.late:
        step = step or progress.current()
        during = f", during {step.label}" if step else ""
        limit = seconds_text(build.run.settings.build_timeout)
        raise UserError(
            f"{build.name} was not built in {limit}{during}, so it was stopped; its log is {build.log}",
            remedy="BUILD_TIMEOUT says how long a build may take",
        )
    if denied := failure.denied(progress):
        raise _not_granted(build, denied)
    why = failure.explain(inputs.image, progress, inputs.dockerfile_text, build.log, outcome.status)
    if step and first_word(step.text) == "RUN" and not build.run.settings.registry_only:
        why += f"\n  A shell just before it: `doit shell --failed {build.name}`"
    raise UserError(why)


def _not_granted(build: ImageBuild, entitlement: str) -> UserError:
    from doit_images.core.compose.place import place

    asked = {"security.insecure": "privileged", "network.host": "network"}
    key = "entitlements" if entitlement in build.inputs.image.entitlements else asked.get(entitlement, "entitlements")
    return UserError(
        f"{build.name} asks for the entitlement {entitlement}, which its builder does not grant",
        where=place(build.run.files, "services", build.name, "build", key),
        remedy="leave it out, or let the builder grant it: `insecure-entitlements` of a buildkitd.toml,"
        f" `builder.Entitlements` of the engine's daemon.json; the log is {build.log}",
    )


def _add_to_history(build: ImageBuild, outcome: Outcome, status: Status, **more: object) -> None:
    more = {"seconds": outcome.seconds, "steps": steps_of(outcome.progress), **more}
    results.add_to_history(build.run, build.decision, status, began=outcome.began, **more)
