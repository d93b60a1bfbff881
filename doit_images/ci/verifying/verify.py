"""Is an image of the engine exactly what these sources give, and is it what runs?

Five questions, each with an answer of its own: do its labels and names say so (the plan), is it the image that was
recorded when it was built, are its bytes those that its id promises, does the shared registry hold the same, and
documents about it, from builders that are trusted, and do the containers run it unchanged? A sixth one takes as long as
a build: does another build without any cache give the same layers?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doit_images.ci.sbom import attached
from doit_images.ci.verifying import running
from doit_images.ci.verifying.content import ImageContent, content_of, contents_of
from doit_images.ci.verifying.difference import Difference, differences
from doit_images.ci.verifying.once_more import once_more
from doit_images.core.base.errors import UserError
from doit_images.core.building.attempt import Attempt
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from doit_images.core.engine.client import Engine, LocalImage, normalise
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.history.store import History
from doit_images.core.local_images import LocalImages
from doit_images.core.planning import record
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import shared_ref_of
from doit_images.core.run import Run
from doit_images.share import connection
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.stack import checkout
from doit_images.stack.checkout import Choice
from doit_images.stack.containers import Container, Containers
from doit_images.stack.images import same


@dataclass(frozen=True)
class Verification:
    """What was found of an image: ``differs`` in sentences, of the image and of each running container by its name;
    ``rebuilt`` what differs in another build, None where there was none. ``image_id`` is "" where none is here;
    ``attached`` are the documents in the registry that count, each with who signed it."""

    name: str
    ref: str
    fingerprint: str
    image_id: str
    differs: tuple[str, ...]
    containers: dict[str, tuple[str, ...]]
    rebuilt: tuple[Difference, ...] | None = None
    attached: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.differs or self.rebuilt or any(self.containers.values()))


def chosen(project: Project, compose: Compose, words: Sequence[str]) -> list[str]:
    """The names of the images that are meant by names or references of images, or by services that run one; all of them
    for no word. ``UserError`` for a word that means none."""
    images = project.images
    by_ref = {normalise(ref): name for name, image in images.items() for ref in image.names}
    unknown = [word for word in words if word not in images and normalise(word) not in by_ref]
    services = compose.services() if unknown else {}
    named = []
    for word in words:
        service = services.get(word)
        ref = normalise(service.image) if service else normalise(word)
        named.append(word if word in images else by_ref.get(ref) or project.image(word).name)
    return list(dict.fromkeys(named)) or list(images)


def read_together(engine: Engine, decisions: Mapping[str, Decision], names: Sequence[str]) -> list[ImageContent]:
    """What the images of these names hold that these sources gave. A layer that several have is read once. Nothing
    where the engine cannot give one of them: ``verify`` then reads each alone, and says which."""
    ids = {local_image.id for name in names if (local_image := _given(decisions[name]))}
    try:
        return contents_of(ids, leading_to(engine.address)) if len(ids) > 1 else []
    except UserError:
        return []


def verify(run: Run, name: str, contents: Sequence[ImageContent] = (), *, rebuild: bool) -> Verification:
    """Look at the image of this name and at the containers that run it; ``rebuild`` builds it once more. ``contents``
    are of images that were read before. ``UserError`` where it cannot be built."""
    run.settings.need_engine()
    decision = run.planner.decisions()[name]
    inputs, local_image = decision.inputs, _given(decision)
    differs = [] if decision.action == Action.FRESH else list(decision.reasons)
    content, documents = None, list[str]()
    if local_image:
        differs += _recorded(run.folder, run.engine, run.history, decision, local_image)
        content, damage = _held(run.engine, run.local_images, local_image, contents)
        documents, others = _shared(run, decision, local_image)
        differs += [*damage, *others]
    rebuilt = None
    if rebuild and content and local_image:
        rebuilt = tuple(_rebuilt(run, decision, local_image, content))
    return Verification(
        name,
        inputs.image.ref,
        inputs.fingerprint,
        local_image.id if local_image else "",
        tuple(differs),
        _containers(run.engine, checkout.of(run), checkout.project_of(run), decision, local_image),
        rebuilt,
        tuple(documents),
    )


def _given(decision: Decision) -> LocalImage | None:
    """The image here that these sources gave."""
    return decision.local_image if decision.action in (Action.FRESH, Action.RETAG) else None


def _recorded(folder: Path, engine: Engine, history: History, decision: Decision, local_image: LocalImage) -> list[str]:
    """Labels can be copied onto any image; which one was built, pulled or named here is written down beside it."""
    last = record.read(folder, decision.name)
    if last is None or last.fingerprint != decision.inputs.fingerprint or last.image_id in ("", local_image.id):
        return []
    layers = engine.layers(local_image.id)
    known = (build.layers for build in history.recent(decision.name) if build.image_id == last.image_id)
    if any(each is not None and [digest for digest, _ in each] == [digest for digest, _ in layers] for each in known):
        return []
    return [f"it is not the image that was recorded here ({last.image_id[:19]}…), though it has its labels"]


def _held(
    engine: Engine, local_images: LocalImages, local_image: LocalImage, contents: Sequence[ImageContent]
) -> tuple[ImageContent | None, list[str]]:
    """What the image holds, and in what that is not what its id promises."""
    layers = _layers(engine, local_image.id)
    alike = sorted(
        (each for each in contents if each.promised == layers), key=lambda each: each.config != local_image.id
    )
    try:
        content = alike[0] if alike else content_of(local_image.id, leading_to(engine.address))
    except UserError as error:
        return None, [f"its content cannot be read: {error}"]
    damage = content.damage()
    # containerd's store calls an image by its manifest.
    if not local_images.containerd_store and content.config != local_image.id:
        damage.append("its configuration is not what its id says")
    return content, damage


def _shared(run: Run, decision: Decision, local_image: LocalImage) -> tuple[list[str], list[str]]:
    """The documents that count beside the result in the shared registry, and in what that or a document is another; a
    result that is not signed as it must be is told, and counts as none."""
    share, shared_ref = connection.of(run).share, shared_ref_of(decision.inputs, run.local_images.snapshot().platform)
    offer = share.look({"": shared_ref}).get("") if shared_ref else None
    if shared_ref is None or offer is None:
        return [], []
    if offer.content != run.planner.content_of(decision.inputs, local_image):
        return [], [f"the shared registry has another result for the same inputs ({offer.digest[:19]}…)"]
    try:
        return attached.judged(share, shared_ref, offer.digest)
    except (Unavailable, NoImage) as error:
        return [], [f"what is attached to it is not known: the shared registry {share.address} {error}"]


def _rebuilt(run: Run, decision: Decision, local_image: LocalImage, content: ImageContent) -> list[Difference]:
    with once_more(run, decision, Attempt(no_cache=True)) as image_id:
        found = []
        if _layers(run.engine, image_id) != content.promised:
            found = differences(content, content_of(image_id, leading_to(run.engine.address)))
        if not found and not same(run.engine, image_id, local_image.id):
            found = [Difference(0, "", ("configuration",))]
    return found


def _layers(engine: Engine, image_id: str) -> tuple[str, ...]:
    return tuple(digest for digest, _ in engine.layers(image_id))


def _containers(
    engine: Engine, stack: Choice, compose: Compose, decision: Decision, local_image: LocalImage | None
) -> dict[str, tuple[str, ...]]:
    refs = set(map(normalise, decision.inputs.image.names))
    there = [each for each in Containers(stack.name).look() if each.running]
    found = [each for each in there if normalise(each.image) in refs]
    if stack.beside:  # its containers are made from the tags of fingerprints
        services = compose.services()
        users = {name for name, one in services.items() if name == decision.name or normalise(one.image) in refs}
        found = [each for each in there if each.service in users]
    return {container.name: tuple(_run(engine, container, local_image)) for container in found}


def _run(engine: Engine, container: Container, local_image: LocalImage | None) -> list[str]:
    """In what a container is not the image that it should run."""
    if local_image is None:
        return ["it does not run what these sources give: that image is not here"]
    if not same(engine, container.image_id, local_image.id):
        return [f"it runs another image ({container.image_id[:19]}…)"]
    return running.changes(*engine.changes(container.id))
