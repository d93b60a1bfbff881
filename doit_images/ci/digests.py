"""By which digests is what was tested here deployed elsewhere?

Of an image that is built here only the digest counts under which the shared registry holds just what is here, by
content. Of any other image of the stack, the one under which the engine has pulled it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import path_of, repository
from doit_images.core.base.settings import Settings
from doit_images.core.compose.stack import Service
from doit_images.core.engine.client import Snapshot, normalise
from doit_images.core.planner import Planner
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import SharedImage
from doit_images.core.run import Run
from doit_images.share import connection
from doit_images.stack.checkout import project_of


class PinnedService(NamedTuple):
    """A service, the image that it is declared with, where that is by digest (``""`` if nowhere, with the reason
    ``why``), and the fingerprint of one that is built here."""

    service: str
    image: str
    reference: str
    why: str = ""
    fingerprint: str = ""

    @property
    def digest(self) -> str:
        """The digest alone."""
        return self.reference.partition("@")[2]


def pinned(run: Run, built: Sequence[str] = ()) -> list[PinnedService]:
    """The image of every service that has containers, or of those that are ``built`` here by these names. ``UserError``
    where Compose or the engine does not answer, and for a name of none."""
    services = {name: one for name, one in project_of(run).services().items() if one.replicas}
    decisions = run.planner.decisions()
    names = [run.project.image(name).name for name in built] or [*services]
    ours = {name: decisions[name].inputs for name in names if name in decisions}
    offers = (
        connection.of(run).share.offers(ours, run.local_images.snapshot().platform)
        if run.settings.cache_registry
        else {}
    )
    return [
        _built(run.settings, run.planner, decisions[name], offers.get(name))
        if name in decisions
        else _taken(services[name], run.local_images.snapshot())
        for name in names
    ]


def complete(images: Sequence[PinnedService]) -> Sequence[PinnedService]:
    """The same; ``UserError`` with a sentence for each image that has no digest."""
    if without := [one for one in images if not one.reference]:
        raise UserError("\n".join(f"{one.service} has no digest: {one.why}" for one in without))
    return images


def override(images: Iterable[PinnedService]) -> str:
    """A Compose file that, named behind the project's own, pins each service by its digest and builds nothing."""
    lines = ["services:"]
    for one in images:
        lines += [f"  {json.dumps(one.service)}:", f"    image: {json.dumps(one.reference)}", "    build: !reset null"]
    return "\n".join(lines)


def kustomization(images: Iterable[PinnedService]) -> str:
    """A component for Kubernetes' kustomize, by which manifests that name the images as the Compose file does get them
    by digest."""
    lines = ["apiVersion: kustomize.config.k8s.io/v1alpha1", "kind: Component", "images:"]
    for name, one in {repository(one.image): one for one in images}.items():
        new = one.reference.partition("@")[0]
        lines += [f"- name: {json.dumps(name)}", f"  newName: {json.dumps(new)}", f"  digest: {json.dumps(one.digest)}"]
    return "\n".join(lines)


def _built(settings: Settings, planner: Planner, decision: Decision, offer: SharedImage | None) -> PinnedService:
    """An image that is built here."""
    inputs, registry = decision.inputs, settings.cache_registry
    where, why = "", ""
    if decision.action in (Action.BUILD, Action.BROKEN):
        why = f"it is not built from what is here ({'; '.join(decision.reasons)})"
    elif not registry:
        why = "CACHE_REGISTRY is not set, so it was pushed nowhere"
    elif offer is None:
        why = f"{registry} does not hold it, or no trusted builder signed it"
    elif decision.local_image and offer.content != planner.content_of(inputs, decision.local_image):
        why = f"{registry} holds another result of the same inputs: `doit build` settles which counts"
    else:
        where = f"{registry}/{path_of(inputs.image.ref)}@{offer.digest}"
    return PinnedService(decision.name, inputs.image.ref, where, why, inputs.fingerprint)


def _taken(service: Service, snapshot: Snapshot) -> PinnedService:
    """An image that comes from elsewhere as it is."""
    if "@" in service.image:
        return PinnedService(service.name, service.image, service.image)
    here = snapshot.get(service.image)
    if here is None:
        return PinnedService(service.name, service.image, "", f"the engine does not hold {service.image}")
    start = f"{repository(normalise(service.image))}@"
    names = (name for name, image in snapshot.by_name.items() if image.id == here.id and name.startswith(start))
    digest = next(names, "").partition("@")[2]
    if not digest:
        return PinnedService(service.name, service.image, "", f"{service.image} was never pulled or pushed")
    return PinnedService(service.name, service.image, f"{repository(service.image)}@{digest}")
