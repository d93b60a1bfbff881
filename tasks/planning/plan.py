"""What would run, and why?

Pure: from what the images are made of (``ImageInputs``), what the engine holds (``Snapshot``) and what was recorded,
one decision for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.base import platforms
from tasks.base.references import KEPT, repository, tag_of
from tasks.engine.client import ImageConfig, LocalImage, Snapshot, normalise
from tasks.engine.labels import INPUT_DIGEST, PARENTS, REBUILT
from tasks.inputs.resolver import ImageInputs
from tasks.planning.action import Action
from tasks.planning.reasons import DUE, differences
from tasks.planning.record import Record

if TYPE_CHECKING:
    from tasks.planning.shared_image import SharedImage

UNKNOWN = "?"
PULLS = "its inputs are those of the image here; `pull` is set: its bases are pulled first, which may change that"
# The index of which an image of several platforms is a part, where all of it is here; see ``several.index_of``.
IndexOf = Callable[[ImageInputs, LocalImage], str]
ANOTHER = "the shared registry has another result for the same inputs"
AFRESH_ELSEWHERE = "it was rebuilt without cache on another machine"


@dataclass(frozen=True)
class Decision:
    """What happens to one image, why, and the image of the engine that it is about (``fresh`` and ``retag``).

    ``parents_label`` says what its parents hold now, in the form of the label that a build of it gets. ``offer`` is
    what the shared registry has for it (``pull``). ``coming`` are the parents of a ``build`` that have to be built or
    pulled before it.
    """

    name: str
    action: Action
    reasons: tuple[str, ...]
    inputs: ImageInputs
    local_image: LocalImage | None = None
    parents_label: str = ""
    offer: SharedImage | None = None
    coming: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether anything has to be done."""
        return self.action != Action.FRESH


def plan(
    inputs: Mapping[str, ImageInputs],
    snapshot: Snapshot,
    facts_of: Callable[[LocalImage], ImageConfig],
    record_of: Callable[[str], Record | None],
    offers: Mapping[str, SharedImage] | None = None,
    index_of: IndexOf = lambda one, local_image: "",
    taken: Collection[str] = (),
) -> dict[str, Decision]:
    """Decide for every image, parents first, in the order of ``inputs``.

    ``facts_of`` gives the facts of an image that the engine holds, ``record_of`` the last record of an image,
    ``offers`` what the shared registry holds under the images' fingerprints. Of the images in ``taken`` its result
    counts, although the engine has another.
    """
    decisions: dict[str, Decision] = {}
    for name, one in inputs.items():
        offer = (offers or {}).get(name)
        decisions[name] = decide(one, decisions, snapshot, facts_of, record_of, offer, index_of, name in taken)
    return decisions


def decide(
    one: ImageInputs,
    decided: Mapping[str, Decision],
    snapshot: Snapshot,
    facts_of: Callable[[LocalImage], ImageConfig],
    record_of: Callable[[str], Record | None],
    offer: SharedImage | None = None,
    index_of: IndexOf = lambda one, local_image: "",
    taken: bool = False,
) -> Decision:
    """Decide for one image whose parents are decided already."""
    if one.problem:
        return Decision(one.name, Action.BROKEN, (one.problem,), one)
    parents = dict.fromkeys(one.parents.values())
    for parent in parents:
        if decided[parent].action == Action.BROKEN:
            return Decision(one.name, Action.BROKEN, (f"needs `{parent}`, which is broken",), one)
    first = decided[one.image.duplicate_of] if one.image.duplicate_of else None
    if first and first.stale:
        return Decision(
            one.name, first.action, (f"the same image as `{first.name}`",), one, first.local_image, offer=first.offer
        )
    if first and first.local_image:
        return _kept(one, first.local_image, snapshot, first.parents_label)
    built = [parent for parent in parents if decided[parent].action == Action.BUILD]
    coming = [parent for parent in parents if decided[parent].action in (Action.BUILD, Action.PULL)]
    label = parents_label(one, decided, facts_of, index_of)
    foreign: list[str] = []
    if not built:
        local_image, foreign = matching(one, snapshot, label, facts_of, index_of)
        offer = offer if offer and offered(one, offer, label) else None
        why = ""
        if local_image and offer and not own_only(one):
            why = _given_up(local_image, offer, taken, content_of(one, local_image, facts_of, index_of))
        if local_image and one.due:
            return Decision(one.name, Action.BUILD, (DUE,), one, parents_label=label)
        if local_image and not why:
            return _kept(one, local_image, snapshot, label)
        if offer and not own_only(one):
            reasons = (why,) if why else tuple(foreign or _why(one, snapshot, record_of(one.name), coming))
            return Decision(one.name, Action.PULL, reasons, one, parents_label=label, offer=offer)
    elif (local_image := snapshot.get(tag_of(one.image.ref, one.fingerprint))) is not None:
        waits = ", ".join(f"`{parent}`" for parent in built)
        why = DUE if one.due else f"{waits} is built again (kept if that comes out the same)"
        return Decision(one.name, Action.BUILD, (why,), one, local_image, coming=tuple(coming))
    reasons = tuple(foreign or _why(one, snapshot, record_of(one.name), coming))
    return Decision(one.name, Action.BUILD, reasons, one, parents_label=label, coming=tuple(coming))


def parents_label(
    one: ImageInputs, decided: Mapping[str, Decision], facts_of: Callable[[LocalImage], ImageConfig], index_of: IndexOf
) -> str:
    """What the label of an image says of the parents that it was built on: each context with its parent's content; that
    of several platforms is their index."""
    pairs = []
    for context, parent in sorted(one.parents.items()):
        local_image, offer, inputs = decided[parent].local_image, decided[parent].offer, decided[parent].inputs
        content = offer.content if offer else UNKNOWN
        pairs.append(f"{context}={content_of(inputs, local_image, facts_of, index_of) if local_image else content}")
    return " ".join(pairs)


def content_of(
    one: ImageInputs, local_image: LocalImage, facts_of: Callable[[LocalImage], ImageConfig], index_of: IndexOf
) -> str:
    """The content of an image that the engine holds; that of several platforms is their index."""
    return facts_of(local_image).content if len(one.platforms) < 2 else index_of(one, local_image) or UNKNOWN


def offered(one: ImageInputs, offer: SharedImage, parents: str) -> bool:
    """Whether an image of the shared registry is what a build here would make: its labels say that it was made from
    these own build_inputs on these parents' content, and it is of this platform. A name alone proves nothing."""
    return (
        offer.labels.get(INPUT_DIGEST) == one.input_digest
        and offer.labels.get(PARENTS, "") == parents
        and [platforms.normalise(platform) for platform in offer.platform.split(", ")] == list(one.platforms)
    )


def own_only(one: ImageInputs) -> bool:
    """Whether another machine's result never counts: of what is to be built in every run."""
    return one.image.no_cache or bool(one.image.no_cache_filter)


def rebuilt(labels: Mapping[str, str]) -> int:
    """When an image was rebuilt on purpose, by its label, in seconds since the epoch; 0 if it never was.

    >>> rebuilt({REBUILT: "1795505378"}), rebuilt({REBUILT: ""}), rebuilt({REBUILT: "soon"}), rebuilt({})
    (1795505378, 0, 0, 0)
    """
    text = labels.get(REBUILT, "")
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def _given_up(local_image: LocalImage, offer: SharedImage, taken: bool, content: str) -> str:
    """Why the shared result is taken in place of the engine's own, in words; "" if the own one stays."""
    later = rebuilt(offer.labels) > rebuilt(local_image.labels)
    if not (later or taken) or offer.content == content:
        return ""
    return AFRESH_ELSEWHERE if later else ANOTHER


def matching(
    one: ImageInputs, snapshot: Snapshot, parents: str, facts_of: Callable[[LocalImage], ImageConfig], index_of: IndexOf
) -> tuple[LocalImage | None, list[str]]:
    """The image of the engine that was made from exactly this: the same own build_inputs on the same parents' content.
    The one that carries the fingerprint's tag comes first, then the one that carries the image's name, then any other
    of this repository (another project's may vanish any time).

    Only an image with one of our ``in-`` tags counts: labels alone also stand on a build that was killed before its
    inputs were read again, and on whatever people make from an image of ours, by ``docker commit`` for instance. Where
    there is only one of another platform, that is said in the second part of the answer."""
    foreign: list[str] = []
    known = [snapshot.get(ref) for ref in (tag_of(one.image.ref, one.fingerprint), one.image.ref)]
    ours = f"{repository(normalise(one.image.ref))}:{KEPT}"
    for local_image in (*known, *snapshot.made_from(one.input_digest)):
        if (
            local_image
            and made_from(one, local_image, parents)
            and any(tag.startswith(ours) for tag in local_image.tags)
        ):
            platform = facts_of(local_image).platform
            if not is_for(one, platform, snapshot.platform):
                foreign = [f"the image here is {platform}, {', '.join(one.platforms)} is wanted"]
            elif len(one.platforms) > 1 and not index_of(one, local_image):
                foreign = [f"not all of {', '.join(one.platforms)} are here"]
            else:
                return local_image, []
    return None, foreign


def is_for(one: ImageInputs, platform: str, engine: str) -> bool:
    """Whether an image that the engine shows as of this platform is what is wanted; of several, the one that an engine
    of the platform ``engine`` takes."""
    takes = platforms.chosen(one.platforms, engine) if len(one.platforms) > 1 else ""
    return any(platforms.same(platform, wanted) for wanted in ([takes] if takes else one.platforms))


def made_from(one: ImageInputs, local_image: LocalImage, parents: str) -> bool:
    """Whether an image's labels say that it was made from these own build_inputs on these parents."""
    return local_image.labels.get(INPUT_DIGEST) == one.input_digest and local_image.labels.get(PARENTS, "") == parents


def _kept(one: ImageInputs, local_image: LocalImage, snapshot: Snapshot, label: str) -> Decision:
    reasons = []
    for ref in one.image.names:
        found = snapshot.get(ref)
        if found is None:
            reasons.append(f"tag `{ref}` is missing")
        elif found.id != local_image.id:
            reasons.append(f"tag `{ref}` points elsewhere")
    tagged = snapshot.get(tag_of(one.image.ref, one.fingerprint))
    if not reasons and (tagged is None or tagged.id != local_image.id):
        reasons.append("made from the same content under another fingerprint")
    if not reasons and one.image.pull and one.bases:
        return Decision(one.name, Action.FRESH, (PULLS,), one, local_image, label)
    return Decision(one.name, Action.RETAG if reasons else Action.FRESH, tuple(reasons), one, local_image, label)


def _why(one: ImageInputs, snapshot: Snapshot, last: Record | None, coming: Collection[str]) -> list[str]:
    if last is None:
        known = snapshot.get(one.image.ref)
        if known is None:
            return ["never built here"]
        if INPUT_DIGEST not in known.labels:
            return [f"`{one.image.ref}` was not built by these tasks"]
        return ["its inputs are not those of the image here, and no record says which changed"]
    found = differences(last.build_inputs, one.build_inputs())
    found += [f"`{parent}` is made anew" for parent in coming]
    if found:
        return found
    if last.parents != {name: one.parent_fingerprints.get(name, "") for name in one.parents.values()}:
        return ["one of its parents changed"]
    if snapshot.get(tag_of(one.image.ref, one.fingerprint)) is None:
        return ["image was removed"]
    return ["a parent has other content than the one that it was built on"]
