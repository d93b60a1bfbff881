"""What is to be done about each image of a project, at this moment of a run?

Decided once, for all images together, and then for one at a time as the engine comes to hold other images. The rules
are in ``planning``; here is when they are asked, with what, and who may ask at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from doit_images.core.around import Peers
from doit_images.core.base import extras
from doit_images.core.base.settings import Settings
from doit_images.core.compose.project import Project
from doit_images.core.engine.client import LocalImage, host_platform
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.local_images import LocalImages
from doit_images.core.planning import plan, record
from doit_images.core.planning.asked import LastAsked
from doit_images.core.planning.plan import Decision

if TYPE_CHECKING:
    from doit_images.core.planning.shared_image import SharedImage, SharedRef

Decided = TypeVar("Decided")


class Unasked(Exception):
    """Shared results that have to be asked about before anything can be decided."""

    def __init__(self, refs: Mapping[str, SharedRef]) -> None:
        super().__init__()
        self.refs = refs


@dataclass(frozen=True)
class Sources:
    """What decisions rest on."""

    project: Project
    settings: Settings
    folder: Path
    """The project's own folder, in which results are recorded."""
    resolver: InputResolver
    local_images: LocalImages
    peers: Callable[[], Peers]
    built_on: Callable[[], tuple[str, ...]]
    """The platforms that builds run on, where these are not the engine's."""
    asked: LastAsked
    learn: Callable[[Mapping[str, Decision]], None]
    """Hears what was decided about all images."""


class Planner:
    """Decides about the images of one project. A decision holds until the engine holds other images
    (``LocalImages.version``) or an image was built in this run; then it is taken again when it is asked for. Methods
    may be called from any thread and raise ``UserError``."""

    def __init__(self, sources: Sources) -> None:
        self._sources, self._local = sources, sources.local_images
        self._declared: dict[str, ImageInputs] | None = None
        self._decisions: tuple[int, dict[str, Decision]] | None = None
        self._taken: frozenset[str] = frozenset()
        self._built: set[str] = set()

    def declared(self) -> dict[str, ImageInputs]:
        """What each image is made of, parents first, found without asking the engine: enough for ``file_dep``."""
        with self._local.unmoved:
            if self._declared is None:
                self._local.ask()
                self._declared = self._sources.resolver.resolve(host_platform(), lambda ref, some: None)
            return self._declared

    def decisions(self) -> dict[str, Decision]:
        """What would be done about each image, and why."""
        before = self._valid()
        decided = self._settled(self._all)
        if decided is not before:
            self._sources.learn(decided)
        return decided

    def decide(self, name: str) -> Decision:
        """What is to be done about one image: as planned if nothing changed since, else from what it needs alone."""
        if self._valid() is not None or not self._local.version:
            return self.decisions()[name]
        return self._settled(lambda: self._alone(self._sources.resolver, name))

    def decide_again(self, name: str) -> Decision:
        """The same with its folders walked again, for whoever is about to act on it."""
        return self._settled(lambda: self._again(name))

    def built(self, name: str) -> None:
        """This image was built in this run."""
        with self._local.unmoved:
            self._built.add(name)
            self._decisions = None

    def made_of(self, resolver: InputResolver, platform: str, only: str = "") -> dict[str, ImageInputs]:
        """What the images that a resolver reads (or ``only`` one, with what it needs) are made of for a platform, by
        the bases that are here."""

        def resolved() -> dict[str, ImageInputs]:
            with self._local.unmoved:
                return self._resolved(resolver, platform, only)

        return self._settled(resolved)

    def made_on_any_base(self) -> dict[str, ImageInputs]:
        """What the images are made of for the engine's platform, as far as that is known without any base."""
        with self._local.unmoved:
            platform, built_on = self._local.snapshot().platform, self._sources.built_on()
            return self._sources.resolver.resolve(platform, lambda ref, some: None, built_on=built_on)

    def content_of(self, inputs: ImageInputs, local_image: LocalImage) -> str:
        """The content of an image of this project that the engine holds."""
        return self._known().content_of(inputs, local_image)

    def content_after(self, decision: Decision) -> str:
        """The content that an image has once this was done about it; "" where only a build can tell."""
        return self._known().content_after(decision)

    def index_of(self, inputs: ImageInputs, local_image: LocalImage) -> str:
        """The index that the engine's image of several platforms is part of, if all platforms are here; else ""."""
        from doit_images.core.planning import several  # most images are of one

        results, containerd = self._sources.folder / "results", self._local.containerd_store
        return several.index_of(inputs, local_image, results, containerd=containerd)

    def _settled(self, decide: Callable[[], Decided]) -> Decided:
        with extras.told():  # the peers' modules
            return settled(decide, lambda refs: self._sources.peers().results.look(refs))

    def _valid(self) -> dict[str, Decision] | None:
        version, decisions = self._decisions or (-1, None)
        return decisions if version == self._local.version else None

    def _all(self) -> dict[str, Decision]:
        with self._local.unmoved:
            if (valid := self._valid()) is not None:
                return valid
            resolver = self._sources.resolver
            inputs = self._resolved(resolver, self._local.snapshot().platform)
            decisions = self._planned(inputs, whole=True)
            self._decisions = self._local.version, decisions
            resolver.keep()
            self._local.keep_configs()
            return decisions

    def _alone(self, resolver: InputResolver, name: str) -> Decision:
        with self._local.unmoved:
            return self._planned(self._resolved(resolver, self._local.snapshot().platform, name))[name]

    def _again(self, name: str) -> Decision:
        """Walk the folders of one image again, side by side with other threads, which may change what the engine holds
        meanwhile: then its bases are looked up again, and no file."""
        looks = self._sources.resolver.again()
        try:
            snapshot = self._local.snapshot()
            inputs = self._resolved(looks, snapshot.platform, name)
            with self._local.unmoved:
                same = self._local.snapshot() is snapshot
                return self._planned(inputs)[name] if same else self._alone(looks, name)
        finally:
            looks.release()

    def _resolved(self, resolver: InputResolver, platform: str, only: str = "") -> dict[str, ImageInputs]:
        return resolver.resolve(platform, self._local.configs_of, only, self._sources.built_on())

    def _planned(self, inputs: Mapping[str, ImageInputs], *, whole: bool = False) -> dict[str, Decision]:
        """Decide about all of these; the shared registry is asked about what would else be built, and once in a while
        about all. Which of its results take the place of one here is settled for all images together (``whole``)."""
        inputs = {name: self._checked(each) for name, each in inputs.items()}
        chosen: frozenset[str] = frozenset() if whole else self._taken

        def planned(offers: Mapping[str, SharedImage], taken: Collection[str]) -> dict[str, Decision]:
            return plan.plan(inputs, self._known(), offers, taken or chosen)

        registry, asked = self._sources.settings.cache_registry, self._sources.asked
        decided = planned({}, ())
        due = whole and bool(registry) and asked.due
        ask = set(inputs) if due else chosen.intersection(inputs)
        # A run with nothing to ask does not even import what would.
        if not registry or not (ask or any(each.builds for each in decided.values())):
            return self._possible(decided)
        results = self._sources.peers().results
        if results.reads:
            from doit_images.core.planning import agreement
            from doit_images.core.planning.shared_image import shared_refs_of

            def refs(names: Iterable[str]) -> dict[str, SharedRef]:
                return shared_refs_of({name: inputs[name] for name in names}, self._local.snapshot().platform)

            def look(names: Collection[str]) -> Mapping[str, SharedImage]:
                if unasked := results.unasked(refs(names)):
                    raise Unasked(unasked)
                return results.look(refs(names))

            def recall(names: Collection[str]) -> Mapping[str, SharedImage]:
                return results.remembered(refs(names))

            if not ask and (remembered := agreement.remembered(decided, planned, recall)):
                return self._possible(remembered)
            decided, taken = agreement.Agreement(decided, planned, look, self.content_of).reach(ask, whole=whole)
            if whole:
                self._taken = taken
        if due and not self._taken:
            asked.now()
        return self._possible(decided)

    def _known(self) -> plan.Known:
        local, settings = self._local, self._sources.settings
        return plan.Known(local.snapshot(), local.config_of, self._record_of, self.index_of, settings.registry_only)

    def _record_of(self, name: str) -> record.Record | None:
        known = record.read(self._sources.folder, name)
        return known if known and known.ref == self._sources.project.images[name].ref else None

    def _checked(self, inputs: ImageInputs) -> ImageInputs:
        """With the reason why an image is not to be had here, if there is one, and whether it is still to be built in
        this run."""
        inputs = replace(inputs, problem=inputs.problem or inputs.private) if inputs.private else inputs
        # Services that share an image build it once.
        if plan.own_only(inputs) and inputs.name not in self._built and not inputs.image.duplicate_of:
            inputs = replace(inputs, due=True)
        if inputs.problem or len(inputs.platforms) < 2:
            return inputs
        from doit_images.core.planning import several

        settings, engine = self._sources.settings, self._local.snapshot().platform
        containerd = settings.registry_only or self._local.containerd_store
        problem = several.problem(inputs, engine, dedicated=settings.dedicated_builder, containerd=containerd)
        return replace(inputs, problem=problem) if problem else inputs

    def _possible(self, decided: dict[str, Decision]) -> dict[str, Decision]:
        """Without the builds that BuildKit would refuse; a dedicated builder's version is not known."""
        if not any(each.builds for each in decided.values()):
            return decided
        from doit_images.core.planning import refused  # a run with nothing to build does not even import it

        dedicated, files = self._sources.settings.dedicated_builder, self._sources.project.files
        version = "" if dedicated else self._local.snapshot().version
        builds = refused.Builds(version, files, lambda: dedicated or self._local.containerd_store)
        return refused.without(decided, builds)


def settled(decide: Callable[[], Decided], ask: Callable[[Mapping[str, SharedRef]], object]) -> Decided:
    """What ``decide`` returns. Where it raises ``Unasked``, having given up its locks, ``ask`` is called, and then
    ``decide`` again."""
    while True:
        try:
            return decide()
        except Unasked as unasked:
            refs = unasked.refs
        ask(refs)
