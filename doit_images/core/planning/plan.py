"""What would run, and why?

Pure: from what the images are made of (``ImageInputs``), what the engine holds (``Snapshot``) and what was recorded,
one decision for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from doit_images.core.base import platforms
from doit_images.core.base.references import KEPT, repository, tag_of
from doit_images.core.engine.client import ImageConfig, LocalImage, Snapshot, normalise
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS, REBUILT
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.reasons import DUE, differences
from doit_images.core.planning.record import Record

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage

UNKNOWN = "?"
PULLS = "up to date; `pull` is set, so its bases are pulled first"
# The index of which an image of several platforms is a part, where all of it is here; see ``several.index_of``.
IndexOf = Callable[[ImageInputs, LocalImage], str]
ANOTHER = "the shared registry has another result for the same inputs"
SHARED = "the shared registry has it"
REBUILT_ELSEWHERE = "it was rebuilt without cache on another machine"


class Action(StrEnum):
    """What is to be done about an image."""

    FRESH = "fresh"
    """Nothing: the engine has it under its fingerprint, and all its names point at it; or the shared registry has it,
    where that alone keeps images."""
    RETAG = "retag"
    """Only names are missing: the engine has this very content (another branch was here, or only a parent's
    fingerprint moved while its content did not)."""
    PULL = "pull"
    """The shared registry has it."""
    BUILD = "build"
    """None of these."""
    BROKEN = "broken"
    """It cannot be built as declared, or something that it needs cannot."""


class Decision(NamedTuple):
    """What happens to one image, why, and the image of the engine that it is about (``fresh`` and ``retag``).

    ``parents_label`` says what its parents hold now, in the form of the label that a build of it gets. ``offer`` is
    what the shared registry has for it (``pull``, and ``fresh`` where that alone keeps images). ``coming`` are the
    parents of a ``build`` that have to be built or pulled before it.
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

    @property
    def builds(self) -> bool:
        """Whether the image is to be built, not taken from elsewhere."""
        return self.action == Action.BUILD


class Known(NamedTuple):
    """What plans are made from besides the inputs: what the engine holds, ``config_of`` an image there, the last
    ``record_of`` an image by its name, ``index_of``, see ``IndexOf``, and whether images are kept by the shared
    registry alone (``Settings.registry_only``): then nothing counts that the engine holds."""

    snapshot: Snapshot
    config_of: Callable[[LocalImage], ImageConfig]
    record_of: Callable[[str], Record | None]
    index_of: IndexOf = lambda inputs, local_image: ""
    registry_only: bool = False

    def content_of(self, inputs: ImageInputs, local_image: LocalImage) -> str:
        """The content of an image that the engine holds; that of several platforms is their index."""
        if len(inputs.platforms) < 2:
            return self.config_of(local_image).content
        return self.index_of(inputs, local_image) or UNKNOWN

    def content_after(self, decision: Decision) -> str:
        """The content that an image has once this was done about it; "" where only a build can tell."""
        if decision.action in (Action.BUILD, Action.BROKEN):
            return ""
        if decision.local_image:
            return self.content_of(decision.inputs, decision.local_image).replace(UNKNOWN, "")
        return decision.offer.content if decision.offer else ""


def plan(
    images: Mapping[str, ImageInputs],
    known: Known,
    offers: Mapping[str, SharedImage] | None = None,
    taken: Collection[str] = (),
) -> dict[str, Decision]:
    """Decide for every image, parents first, in the order of ``images``.

    ``offers`` is what the shared registry holds under the images' fingerprints. Of the images in ``taken`` its result
    counts, although the engine has another.
    """
    planner = _Planner(known, offers or {}, taken)
    for name, inputs in images.items():
        planner.decided[name] = planner.decide(inputs)
    return planner.decided


class _Planner:
    """Decides for one image after the other; ``decided`` holds the parents of each before it."""

    def __init__(self, known: Known, offers: Mapping[str, SharedImage], taken: Collection[str]) -> None:
        self.decided: dict[str, Decision] = {}
        self._known = known
        self._snapshot = Snapshot({}, known.snapshot.platform) if known.registry_only else known.snapshot
        self._offers, self._taken = offers, taken

    def decide(self, inputs: ImageInputs) -> Decision:
        name = inputs.name
        if inputs.problem:
            return Decision(name, Action.BROKEN, (inputs.problem,), inputs)
        parents = [self.decided[parent] for parent in dict.fromkeys(inputs.parents.values())]
        if broken := [parent.name for parent in parents if parent.action == Action.BROKEN]:
            return Decision(name, Action.BROKEN, (f"needs `{broken[0]}`, which is broken",), inputs)
        if inputs.image.duplicate_of:
            return self._as(self.decided[inputs.image.duplicate_of], inputs)
        label = self._parents_label(inputs)
        coming = tuple(parent.name for parent in parents if parent.action in (Action.BUILD, Action.PULL))
        foreign: list[str] = []
        if built := [f"`{parent.name}`" for parent in parents if parent.builds]:
            if local_image := self._snapshot.get(tag_of(inputs.image.ref, inputs.fingerprint)):
                again = f"{', '.join(built)} is rebuilt first (this image stays if the result is the same)"
                return Decision(name, Action.BUILD, (DUE if inputs.due else again,), inputs, local_image, coming=coming)
        else:
            decision, foreign = self._without_a_build(inputs, label, coming)
            if decision:
                return decision
        reasons = tuple(foreign or self._why(inputs, coming))
        return Decision(name, Action.BUILD, reasons, inputs, parents_label=label, coming=coming)

    def _as(self, first: Decision, inputs: ImageInputs) -> Decision:
        """The decision for the image of ``first`` under another service's name."""
        if first.stale or first.local_image is None:
            reasons = (f"the same image as `{first.name}`",)
            return Decision(inputs.name, first.action, reasons, inputs, first.local_image, offer=first.offer)
        return self._kept(inputs, first.local_image, first.parents_label)

    def _without_a_build(
        self, inputs: ImageInputs, label: str, coming: Collection[str]
    ) -> tuple[Decision | None, list[str]]:
        """The decision where the parents are here and no input says more; else None, and why an image here is not
        what is wanted, if there is one."""
        local_image, foreign = self._matching(inputs, label)
        offer = self._offers.get(inputs.name)
        if offer and not offered(inputs, offer, label):
            offer = None
        if inputs.due and (local_image or (offer and self._known.registry_only)):
            return Decision(inputs.name, Action.BUILD, (DUE,), inputs, parents_label=label), []
        if offer and self._known.registry_only:
            return Decision(inputs.name, Action.FRESH, (SHARED,), inputs, parents_label=label, offer=offer), []
        if offer and own_only(inputs):
            offer = None
        why = self._given_up(inputs, local_image, offer) if local_image and offer else ""
        if local_image and not why:
            return self._kept(inputs, local_image, label), []
        if offer:
            reasons = (why,) if why else tuple(foreign or self._why(inputs, coming))
            return Decision(inputs.name, Action.PULL, reasons, inputs, parents_label=label, offer=offer), []
        return None, foreign

    def _parents_label(self, inputs: ImageInputs) -> str:
        """What the label of an image says of the parents that it was built on: each context with its parent's content;
        that of several platforms is their index."""
        pairs = []
        for context, name in sorted(inputs.parents.items()):
            parent = self.decided[name]
            content = parent.offer.content if parent.offer else UNKNOWN
            if parent.local_image:
                content = self._known.content_of(parent.inputs, parent.local_image)
            pairs.append(f"{context}={content}")
        return " ".join(pairs)

    def _given_up(self, inputs: ImageInputs, local_image: LocalImage, offer: SharedImage) -> str:
        """Why the shared result is taken in place of the engine's own, in words; "" if the own one stays."""
        later = rebuilt(offer.labels) > rebuilt(local_image.labels)
        wanted = later or inputs.name in self._taken
        if not wanted or offer.content == self._known.content_of(inputs, local_image):
            return ""
        return REBUILT_ELSEWHERE if later else ANOTHER

    def _matching(self, inputs: ImageInputs, parents: str) -> tuple[LocalImage | None, list[str]]:
        """The image of the engine that was made from exactly this: the same inputs on the same parents' content. The
        one that carries the fingerprint's tag comes first, then the one that carries the image's name, then any other
        of this repository. Where the files give an image no name, Compose calls it after the folder of each checkout:
        then also another project's that has this very fingerprint, under the name of the same service.

        Only an image with the ``in-`` tag of its own fingerprint counts: labels alone also stand on a build that was
        killed before its inputs were read again, and on whatever people make from an image of ours, by ``docker
        commit`` for instance. Where there is only one of another platform, or one with a tag that proves nothing, that
        is said in the second part of the answer."""
        foreign: list[str] = []
        tagged = [self._snapshot.get(ref) for ref in (tag_of(inputs.image.ref, inputs.fingerprint), inputs.image.ref)]
        for local_image in (*tagged, *self._snapshot.by_input_digest.get(inputs.input_digest, ())):
            if local_image is None or not made_from(inputs, local_image, parents):
                continue
            if not is_kept_for(inputs, local_image):
                foreign = foreign or _unproven(inputs, local_image)
                continue
            platform = self._known.config_of(local_image).platform
            if not is_for(inputs, platform, self._snapshot.platform):
                foreign = [f"the image here is {platform}, {', '.join(inputs.platforms)} is wanted"]
            elif len(inputs.platforms) > 1 and not self._known.index_of(inputs, local_image):
                foreign = [f"not all of {', '.join(inputs.platforms)} are here"]
            else:
                return local_image, []
        return None, foreign

    def _kept(self, inputs: ImageInputs, local_image: LocalImage, label: str) -> Decision:
        reasons = []
        for ref in inputs.image.names:
            named = self._snapshot.get(ref)
            if named is None:
                reasons.append(f"tag `{ref}` is missing")
            elif named.id != local_image.id:
                reasons.append(f"tag `{ref}` points elsewhere")
        tagged = self._snapshot.get(tag_of(inputs.image.ref, inputs.fingerprint))
        if not reasons and (tagged is None or tagged.id != local_image.id):
            reasons.append("made from the same content under another fingerprint")
        if not reasons and inputs.image.pull and inputs.bases:
            return Decision(inputs.name, Action.FRESH, (PULLS,), inputs, local_image, label)
        action = Action.RETAG if reasons else Action.FRESH
        return Decision(inputs.name, action, tuple(reasons), inputs, local_image, label)

    def _why(self, inputs: ImageInputs, coming: Collection[str]) -> list[str]:
        last = self._known.record_of(inputs.name)
        if last is None:
            named = self._snapshot.get(inputs.image.ref)
            if named is None:
                return ["never built here"]
            if INPUT_DIGEST not in named.labels:
                return [f"`{inputs.image.ref}` was not built by these tasks"]
            return ["the inputs changed, and no record says which"]
        changes = differences(last.build_inputs, inputs.build_inputs())
        changes += [f"`{parent}` is made again" for parent in coming]
        if changes:
            return changes
        if last.parents != {name: inputs.parent_fingerprints.get(name, "") for name in inputs.parents.values()}:
            return ["one of its parents changed"]
        if self._snapshot.get(tag_of(inputs.image.ref, inputs.fingerprint)) is None:
            return ["image was removed"]
        return ["a parent changed since this was built"]


def built_for(wanted: Iterable[str], decisions: Mapping[str, Decision]) -> set[str]:
    """The images that are built where these are wanted; what is pulled or here needs none of its parents."""
    built: set[str] = set()
    todo = [name for name in wanted if name in decisions]
    while todo:
        decision = decisions[todo.pop()]
        if decision.builds and decision.name not in built:
            built.add(decision.name)
            todo += decision.inputs.needs
    return built


def offered(inputs: ImageInputs, offer: SharedImage, parents: str) -> bool:
    """Whether an image of the shared registry is what a build here would make: its labels say that it was made from
    these inputs on these parents' content, and it is of this platform. A name alone proves nothing."""
    return (
        offer.labels.get(INPUT_DIGEST) == inputs.input_digest
        and offer.labels.get(PARENTS, "") == parents
        and [platforms.normalise(platform) for platform in offer.platform.split(", ")] == list(inputs.platforms)
    )


def own_only(inputs: ImageInputs) -> bool:
    """Whether another machine's result never counts: of what is to be built in every run."""
    return inputs.image.no_cache or bool(inputs.image.no_cache_filter)


def replaces(decision: Decision) -> bool:
    """Whether a result takes the place of a shared one where only the registry keeps results, although nobody asked for
    that: of an image that is built in every run the first result would stay for ever."""
    return decision.builds and own_only(decision.inputs)


def rebuilt(labels: Mapping[str, str]) -> int:
    """When an image was rebuilt on purpose, by its label, in seconds since the epoch; 0 if it never was.

    >>> rebuilt({REBUILT: "1795505378"}), rebuilt({REBUILT: ""}), rebuilt({REBUILT: "soon"}), rebuilt({})
    (1795505378, 0, 0, 0)
    """
    text = labels.get(REBUILT, "")
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def is_for(inputs: ImageInputs, platform: str, engine: str) -> bool:
    """Whether an image that the engine shows as of this platform is what is wanted; of several, the one that an
    engine of the platform ``engine`` takes."""
    takes = platforms.chosen(inputs.platforms, engine) if len(inputs.platforms) > 1 else ""
    return any(platforms.same(platform, wanted) for wanted in ([takes] if takes else inputs.platforms))


def is_kept_for(inputs: ImageInputs, local_image: LocalImage) -> bool:
    """Whether one of an image's names proves that a build of these tasks ended well: one of this repository, or one of
    another checkout that calls this very fingerprint so where it is Compose that names the image, after project and
    service."""
    proofs, ours = local_image.proofs, repository(normalise(inputs.image.ref))
    unnamed = f"-{inputs.name}"
    elsewhere = [each for each in proofs if each.endswith(unnamed)] if ours.endswith(unnamed) else []
    return ours in proofs or any(tag_of(each, inputs.fingerprint) in local_image.tags for each in elsewhere)


def _unproven(inputs: ImageInputs, local_image: LocalImage) -> list[str]:
    """Why an image with the right labels does not count, where a name of it looks as if it did."""
    ours = f"{repository(normalise(inputs.image.ref))}:{KEPT}"
    names = [name for name in local_image.tags if name.startswith(ours)]
    return [f"`{name}` does not count: it is not the fingerprint in the image's label" for name in names[:1]]


def made_from(inputs: ImageInputs, local_image: LocalImage, parents: str) -> bool:
    """Whether an image's labels say that it was made from these inputs on these parents."""
    return (
        local_image.labels.get(INPUT_DIGEST) == inputs.input_digest and local_image.labels.get(PARENTS, "") == parents
    )
