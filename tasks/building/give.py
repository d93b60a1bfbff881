"""What is shared of an image that was built here, and does it count for the others?

The image goes to the registry, unless another machine's result of the same inputs was there first (``agreement``);
what is known of its build goes to the index.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tasks.bases import shared as shared_base
from tasks.bases.base import made_here
from tasks.bases.debian import IDENTITY_LABEL
from tasks.building import build_target
from tasks.building.events import ImageNoted
from tasks.engine.client import LocalImage, normalise
from tasks.engine.labels import INPUT_DIGEST, PARENTS, REBUILT
from tasks.planning.agreement import verdict
from tasks.planning.plan import Decision, own_only, rebuilt
from tasks.run import Workspace
from tasks.sharing import lease, share

if TYPE_CHECKING:
    from tasks.planning.shared_image import SharedImage


class _Parents:
    """Pushing what others lack: children of one parent, and images on one base, do it once."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.base_given = False


def mark(workspace: Workspace, decision: Decision) -> str:
    """The label of a rebuild on purpose: now, or just after the last such rebuild that is known, whose machine's clock
    may be ahead."""
    known = [0]
    if decision.held:
        known.append(rebuilt(decision.held.labels))
    wanted = share.wanted_of(decision.inputs, workspace.snapshot().platform)
    if wanted and workspace.share.reads and (there := workspace.share.look({"": wanted}).get("")):
        known.append(rebuilt(there.labels))
    return str(max(int(time.time()), 1 + max(known)))


def give_base(workspace: Workspace) -> None:
    """Push the base, if it was made here before there was a registry, and that has none: what is built on it is of no
    use to machines that have another."""
    ref, number = workspace.settings.base_image, workspace.base_identity
    held = workspace.snapshot().get(ref)
    if held and number and held.labels.get(IDENTITY_LABEL) == number and made_here(held):
        platform = workspace.snapshot().platform
        if shared_base.of(workspace.settings, workspace.share, number, platform).push(held.id, workspace.engine):
            workspace.changed()


def give(
    workspace: Workspace, decision: Decision, image_id: str, size: int, seconds: float, rebuilt_at: str = ""
) -> SharedImage | None:
    """Share what was built in so many seconds; returns the shared result that is to take its place, if one is."""
    wanted = share.wanted_of(decision.inputs, workspace.snapshot().platform)
    if wanted is None or not (workspace.share.reads or workspace.coordinator.on):
        return None
    labels = {INPUT_DIGEST: decision.inputs.input_digest, PARENTS: decision.parents_label, REBUILT: rebuilt_at}
    if normalise(workspace.settings.base_image) in map(normalise, decision.inputs.bases):
        parents = workspace.kept(_Parents)
        with parents.lock:
            if not parents.base_given:
                give_base(workspace)
            parents.base_given = True
    what, found = offer(workspace, decision, wanted, LocalImage(image_id, labels=labels, size=size, fixed=False))
    if workspace.settings.cache_write:
        workspace.coordinator.publish({wanted.fingerprint: lease.Made(found.digest if found else "", seconds, size)})
    takes = what == "take" and found and workspace.share.gives(found) and not own_only(decision.inputs)
    return found if takes else None


def offer(
    workspace: Workspace, decision: Decision, wanted: share.Wanted, held: LocalImage
) -> tuple[str, SharedImage | None]:
    """Push an image to where all agree to find it, after the parents that are missing there, if it counts. Returns what
    was done (``push``, ``keep``, ``take``: see ``agreement.verdict``) and what the registry then holds."""
    registry = workspace.share
    if not registry.reads:
        return "keep", None
    on_shared = _on_shared_parents(workspace, decision)
    registry.forget(wanted)
    found = registry.look({"": wanted}).get("")

    def judged() -> str:
        return verdict(held.labels, lambda: workspace.content_of(decision.inputs, held), found, on_shared)

    what = judged()
    if what == "push" and registry.writes:
        workspace.events.emit(ImageNoted(decision.name, f"pushing to {registry.address}"))
        layout = build_target.layout_of(workspace, decision.inputs)
        whole = (layout, workspace.index_of(decision.inputs, held)) if layout else None
        found = registry.push(wanted, held.id, workspace.engine, held.size, build_target.inline_tags(workspace), whole)
        workspace.changed()
        # Between the look and the push another machine may have pushed, and be found there now.
        if found and judged() == "take":
            return "take", found
    return what, found


def _on_shared_parents(workspace: Workspace, decision: Decision) -> bool | None:
    """Whether the parents that an image was built on are what the registry holds, where those that it lacks are pushed
    first: nobody else could use the image without them. None if that cannot be known."""
    platform = workspace.snapshot().platform
    pairs = []
    for context, name in sorted(decision.inputs.parents.items()):
        parent = workspace.decide(name)
        wanted = share.wanted_of(parent.inputs, platform)
        if wanted is None:
            return None
        with workspace.kept(_Parents).lock:  # two children of one parent push it once
            found = workspace.share.look({name: wanted}).get(name)
            if parent.held and (found is None or found.labels.get(INPUT_DIGEST) != parent.inputs.input_digest):
                _, found = offer(workspace, parent, wanted, parent.held)
        if found is None:
            return None
        pairs.append(f"{context}={found.content}")
    return " ".join(pairs) == decision.parents_label
