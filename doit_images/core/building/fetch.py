"""How does the engine get an image that the shared registry offers?"""

from __future__ import annotations

import time

from doit_images.core.base.references import tag_of
from doit_images.core.building import results
from doit_images.core.building.build_target import Transfer
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.plan import Decision, is_for, made_from
from doit_images.core.planning.shared_image import shared_ref_of
from doit_images.core.run import Run


def fetched(run: Run, decision: Decision) -> LocalImage | None:
    """What the shared registry offers, named and recorded; None if it is not what was promised, or does not come."""
    inputs, offer = decision.inputs, decision.offer
    shared_ref = shared_ref_of(inputs, run.local_images.snapshot().platform)
    if offer is None or shared_ref is None:
        raise ValueError("pull is decided from an offer")
    began = time.time()
    ref = run.peers.results.pull(shared_ref, offer, run.engine, Transfer.of(run).layout_of(inputs))
    if not ref:
        return None
    try:
        run.local_images.changed()
        # Another run with this engine that pulled it too took this name away, but only after it gave it its own.
        local_image = run.local_images.snapshot().get(ref) or run.local_images.snapshot().get(
            tag_of(inputs.image.ref, inputs.fingerprint)
        )
        if (
            local_image is None
            or not made_from(inputs, local_image, decision.parents_label)
            or not is_for(
                inputs, run.local_images.config_of(local_image).platform, run.local_images.snapshot().platform
            )
            or run.planner.content_of(inputs, local_image) != offer.content
        ):
            run.peers.results.refuse(shared_ref, "it is not made from what its labels in the registry say")
            return None
        there = decision._replace(local_image=local_image)
        results.name_image(run.engine, run.local_images, there, local_image.id)
    finally:
        temporary_tag.give_back(run.engine, ref)
        run.local_images.changed()
    results.keep(run, decision, local_image, began)
    return local_image
