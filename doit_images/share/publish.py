"""What is shared of an image that was built here, and does it count for the others?

The image goes to the registry, unless another machine's result of the same inputs was there first (``agreement``);
what is known of its build goes to the index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doit_images.core.building.build_target import Transfer, inline_tags
from doit_images.core.building.events import ImageNoted
from doit_images.core.engine.client import LocalImage
from doit_images.core.engine.labels import INPUT_DIGEST
from doit_images.core.planning.agreement import Resolution, verdict
from doit_images.core.planning.plan import Decision, own_only
from doit_images.core.planning.shared_image import SharedRef, shared_ref_of
from doit_images.core.run import Run
from doit_images.share import index

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage
    from doit_images.share.connection import Machines
    from doit_images.share.transfer import Whole


def give(
    machines: Machines, decision: Decision, local_image: LocalImage, seconds: float, pushed: Whole | None = None
) -> SharedImage | None:
    """Share what was built in so many seconds, and is in the registry already where its builder ``pushed`` it; returns
    the shared result that is to take its place, if one is."""
    run, share = machines.run, machines.share
    shared_ref = shared_ref_of(decision.inputs, run.local_images.snapshot().platform)
    if shared_ref is None or not (share.reads or machines.coordinator.on):
        return None
    if run.local_images.on_own_base(decision.inputs.bases):
        with machines.giving:
            if not machines.base_given and run.own_base and run.own_base.give():
                run.local_images.changed()
            machines.base_given = True
    what, shared_image = offer(machines, decision, shared_ref, local_image, pushed)
    if run.settings.cache_write and not machines.coordinator.lost(shared_ref.turn):
        made = index.KnownResult(shared_image.digest if shared_image else "", seconds, local_image.size)
        machines.coordinator.index.publish({shared_ref.fingerprint: made})
    takes = what == Resolution.TAKE and shared_image and share.gives(shared_image) and not own_only(decision.inputs)
    return shared_image if takes else None


def offer(
    machines: Machines, decision: Decision, shared_ref: SharedRef, local_image: LocalImage, pushed: Whole | None = None
) -> tuple[Resolution, SharedImage | None]:
    """Push an image to where all agree to find it, after the parents that are missing there, if it counts; one that its
    builder ``pushed`` only gets its name there. Returns what was done and what the registry then holds."""
    run, registry = machines.run, machines.share
    if not registry.reads:
        return Resolution.KEEP, None
    on_shared = on_shared_parents(machines, decision)
    registry.forget(shared_ref)
    shared_image = registry.look({"": shared_ref}).get("")

    def content() -> str:
        return pushed.content if pushed else run.planner.content_of(decision.inputs, local_image)

    def judged() -> Resolution:
        return verdict(local_image.labels, content, shared_image, on_shared_parents=on_shared)

    what = judged()
    if what == Resolution.PUSH and registry.writes and machines.coordinator.lost(shared_ref.turn):
        run.events.emit(ImageNoted(decision.name, "not pushed: meanwhile another machine has the turn to build it"))
    elif what == Resolution.PUSH and registry.writes:
        run.events.emit(ImageNoted(decision.name, f"pushing to {registry.address}"))
        whole = pushed or _in_layout(run, decision, local_image)
        shared_image = registry.push(shared_ref, local_image, run.engine, inline_tags(run.cache_backend), whole)
        run.local_images.changed()
        # Between the look and the push another machine may have pushed, and be found there now.
        if shared_image and judged() == Resolution.TAKE:
            return Resolution.TAKE, shared_image
    return what, shared_image


def _in_layout(run: Run, decision: Decision, local_image: LocalImage) -> Whole | None:
    """An image that the engine does not hold whole, in its layout."""
    layout = Transfer.of(run).layout_of(decision.inputs)
    if layout is None:
        return None
    from doit_images.share.transfer import Whole  # most images are of one platform

    index = run.planner.index_of(decision.inputs, local_image)
    return Whole(index, index, layout)


def on_shared_parents(machines: Machines, decision: Decision) -> bool | None:
    """Whether the parents that an image was built on are what the registry holds, where those that it lacks are pushed
    first: nobody else could use the image without them. None if that cannot be known."""
    run, pairs = machines.run, []
    for context, name in sorted(decision.inputs.parents.items()):
        parent = run.planner.decide(name)
        shared_ref = shared_ref_of(parent.inputs, run.local_images.snapshot().platform)
        if shared_ref is None:
            return None
        with machines.giving:  # two children of one parent push it once
            shared_image = machines.share.look({name: shared_ref}).get(name)
            if parent.local_image and (
                shared_image is None or shared_image.labels.get(INPUT_DIGEST) != parent.inputs.input_digest
            ):
                _, shared_image = offer(machines, parent, shared_ref, parent.local_image)
        if shared_image is None:
            return None
        pairs.append(f"{context}={shared_image.content}")
    return " ".join(pairs) == decision.parents_label
