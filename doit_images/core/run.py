"""What does one run of doit know?

Settings, project, engine, what the images are made of and what would be done about them: each gathered once, when
it is first asked for, and shared by every task of the run. Nothing here happens at import.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from doit_images.core.around import Alone, LocalBase, Peers
from doit_images.core.base import command_log, extras, places, platforms, settings
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import CommandStarted, Events
from doit_images.core.base.references import beside
from doit_images.core.base.task_names import PLAIN, TaskNames
from doit_images.core.compose import env_files, project
from doit_images.core.engine.client import Engine, ImageConfig, LocalImage, Snapshot, host_platform
from doit_images.core.history.store import History
from doit_images.core.inputs import environment
from doit_images.core.inputs.image_configs import ImageConfigCache
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.planning import plan, record
from doit_images.core.planning.asked import Asked
from doit_images.core.planning.plan import Decision
from doit_images.core.planning.unasked import Unasked, settled

if TYPE_CHECKING:
    from doit_images.core.history.expected import Expected
    from doit_images.core.planning.shared_image import SharedImage

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Parts:
    """What a run is composed of besides the core."""

    peers: Callable[[Run], Peers] = lambda run: Alone()
    base: Callable[[Run], LocalBase | None] = lambda run: None
    names: TaskNames = PLAIN
    """What the tasks are called in this project."""


class Run:
    """One project seen by one run. Methods may be called from any thread and raise ``UserError``."""

    def __init__(
        self,
        files: tuple[Path, ...] | None = None,
        environ: Mapping[str, str] = os.environ,
        root: Path | None = None,
        parts: Parts = Parts(),
    ) -> None:
        self.parts = parts
        """What takes part in this run besides the core."""
        self.id = os.urandom(6).hex()
        """The builds of one run belong together in the history by this."""
        self.began = time.time()
        self.events = Events()
        self.count_workers: Callable[[], int] = lambda: 1
        """Counts those who could work at this moment; doit's reporter knows how."""
        self.wanted: frozenset[str] | None = None
        """The images that this run was asked for, as opposed to what they need; None is all."""
        self.caller = environ
        """The environment that this run was started in."""
        self._most_workers = 1
        self._kept: dict[Callable[..., object], object] = {}
        self._given, self._root = files, root or settings.root()
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._declared: dict[str, ImageInputs] | None = None
        self._decisions: dict[str, Decision] | None = None
        self._taken: frozenset[str] = frozenset()
        self._changed = False
        self._built: set[str] = set()

    def anew(self, environ: Mapping[str, str] | None = None, files: tuple[Path, ...] | None = None) -> Run:
        """A run of the same project that has looked at nothing yet; or of other files, in another environment."""
        return Run(files or self.files, self.environ if environ is None else environ, self._root, self.parts)

    @property
    def workers(self) -> int:
        """How many images can be worked on at once: the most workers that were seen so far."""
        self._most_workers = max(self._most_workers, self.count_workers())
        return self._most_workers

    def heard_command(self, line: str) -> None:
        """A command is about to be started: told as an event, and kept in the project's log of commands."""
        self.events.emit(CommandStarted(line))
        with contextlib.suppress(OSError, UserError):  # where there is no folder, there is no log
            command_log.keep(self.folder / "commands.log", self.id, line)

    def kept(self, kind: type[Kept]) -> Kept:
        """What a part of the program keeps for the length of a run: one object of this class, made when it is first
        asked for."""
        with self._lock:
            if kind not in self._kept:
                self._kept[kind] = kind()
            return cast(Kept, self._kept[kind])

    def part(self, kind: Callable[[Run], Kept]) -> Kept:
        """The same of what is made from the run."""
        with self._lock:
            if kind not in self._kept:
                self._kept[kind] = kind(self)
            return cast(Kept, self._kept[kind])

    @property
    def peers(self) -> Peers:
        """The other machines that build this project."""
        return self.part(self.parts.peers)

    @cached_property
    def settings(self) -> settings.Settings:
        """All settings of this run."""
        return settings.load(environ=self.caller)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The project's Compose files."""
        return self._given or project.compose_files(self.caller, self._root)

    @cached_property
    def folder(self) -> Path:
        """The project's own folder, in ``.doit-images``."""
        return places.project_folder(self.files, self.caller)

    @property
    def journals(self) -> Path:
        """Where runs of this project write down what they must not leave (``leftovers``)."""
        return self.folder / "runs"

    @cached_property
    def common(self) -> Path:
        """The folder ``.doit-images``, for what all projects beside it may remember together."""
        return places.build_folder(self.files)

    @cached_property
    def environ(self) -> Mapping[str, str]:
        """The environment that Compose runs in: the caller's, with the certificates that builds trust, and what the env
        file of the folder gives that Compose would be started in."""
        given = settings.build_environ(self.settings, self.caller)
        return env_files.from_above(self._root, self.files, given)

    @cached_property
    def project(self) -> project.Project:
        """The resolved Compose project."""
        return project.load(self.files, self.environ)

    @cached_property
    def engine(self) -> Engine:
        """The engine that images are built with and kept in."""
        return Engine()

    @cached_property
    def containerd_store(self) -> bool:
        """Whether the engine keeps images in containerd's store."""
        return self.engine.uses_containerd_store()

    @property
    def built_on(self) -> tuple[str, ...]:
        """The platforms that builds run on, as far as a dedicated builder was seen here."""
        if not self.settings.dedicated_builder:
            return ()
        from doit_images.core.buildkit import builder  # most builds are the engine's own

        return builder.platforms(self.settings, self.common, self.snapshot().platform)

    @cached_property
    def history(self) -> History:
        """Every build that was done for this project."""
        return History(self.folder / "history" / "history.sqlite3")

    @cached_property
    def resolver(self) -> InputResolver:
        """Reads Dockerfiles and walks contexts, each once."""
        return InputResolver(self.project, self.common, self.environ)

    @cached_property
    def build_environ(self) -> dict[str, str]:
        """The environment in which buildx builds: also with what Compose's env files say of the variables that builds
        read."""
        names = {name for image in self.project.images.values() for name in env_files.read_by(image)}
        given = env_files.with_values(self.files, self.environ, names)
        return environment.of_build(given, self.project.directory)

    @cached_property
    def configs(self) -> ImageConfigCache:
        """What is known of the images that the engine holds."""
        return ImageConfigCache(self.common / "facts.json", self.engine.config_of)

    @cached_property
    def asked(self) -> Asked:
        """When the shared registry was last asked about images that are fresh here."""
        return Asked(self.folder, (self.settings.cache_registry, self.engine.address), self.settings.cache_ask)

    @cached_property
    def expected(self) -> Expected:
        """How long each image takes, as far as history knows."""
        from doit_images.core.history.expected import Expected  # a run with nothing to do forecasts nothing

        return Expected(self.history, self.project.images.values())

    def declared(self) -> dict[str, ImageInputs]:
        """What each image is made of, parents first, found without asking the engine: enough for ``file_dep``."""
        with self._lock:
            if self._declared is None:
                self.engine.ask()
                self._declared = self.resolver.resolve(host_platform(), lambda ref, some: None)
            return self._declared

    def decisions(self) -> dict[str, Decision]:
        """What would be done about each image, and why; made again after ``changed``."""
        before = self._decisions
        decided = self._settled(self._all)
        if decided is not before and self.settings.redis_url:
            with extras.told():
                self.expected.learn(decided, self.peers.seconds)
        return decided

    def _all(self) -> dict[str, Decision]:
        with self._lock:
            if self._decisions is None:
                inputs = self.resolver.resolve(self.snapshot().platform, self.configs_of, built_on=self.built_on)
                self._decisions = self._planned(inputs, whole=True)
                self.resolver.keep()
                self.configs.keep(local_image.id for local_image in self.snapshot().by_name.values())
            return self._decisions

    def made_of(self, resolver: InputResolver, platform: str, only: str = "") -> dict[str, ImageInputs]:
        """What the images that a resolver reads (or ``only`` one, with what it needs) are made of for a platform, by
        the bases that are here."""

        def resolved() -> dict[str, ImageInputs]:
            with self._lock:
                return resolver.resolve(platform, self.configs_of, only, self.built_on)

        return self._settled(resolved)

    def made_on_any_base(self) -> dict[str, ImageInputs]:
        """What the images are made of for the engine's platform, as far as that is known without any base."""
        with self._lock:
            return self.resolver.resolve(self.snapshot().platform, lambda ref, some: None, built_on=self.built_on)

    def _settled(self, decide: Callable[[], Kept]) -> Kept:
        with extras.told():  # the peers' modules
            return settled(decide, lambda wanted: self.peers.results.look(wanted))

    def decide(self, name: str, *, refresh: bool = False) -> Decision:
        """What is to be done about one image now: as planned if nothing changed since, else from what it needs alone.
        ``refresh``: with its folders walked again, for whoever is about to act on it."""
        if not refresh and (self._decisions is not None or not self._changed):
            return self.decisions()[name]

        return self._settled(lambda: self._again(name) if refresh else self._alone(self.resolver, name))

    def _alone(self, resolver: InputResolver, name: str) -> Decision:
        with self._lock:
            inputs = resolver.resolve(self.snapshot().platform, self.configs_of, name, self.built_on)
            return self._planned(inputs)[name]

    def _again(self, name: str) -> Decision:
        """Walk the folders of one image again, side by side with other threads, which may change what the engine holds
        meanwhile: then its bases are looked up again, and no file."""
        looks = self.resolver.again()
        try:
            snapshot = self.snapshot()
            inputs = looks.resolve(snapshot.platform, self.configs_of, name, self.built_on)
            with self._lock:
                same = self._snapshot is snapshot
                return self._planned(inputs)[name] if same else self._alone(looks, name)
        finally:
            looks.release()

    def _planned(self, inputs: Mapping[str, ImageInputs], whole: bool = False) -> dict[str, Decision]:
        """Decide about all of these; the shared registry is asked about what would else be built, and once in a while
        about all. Which of its results take the place of one here is settled for all images together (``whole``)."""
        snapshot = self.snapshot()
        inputs = {name: self._checked(each) for name, each in inputs.items()}

        def planned(offers: Mapping[str, SharedImage], taken: Collection[str]) -> dict[str, Decision]:
            return plan.plan(inputs, self._known(), offers, taken or chosen)

        chosen: frozenset[str] = frozenset() if whole else self._taken
        decided = planned({}, ())
        due = whole and bool(self.settings.cache_registry) and self.asked.due
        ask = set(inputs) if due else chosen.intersection(inputs)
        # A run with nothing to ask does not even import what would.
        if not self.settings.cache_registry or not (ask or any(each.builds for each in decided.values())):
            return self._possible(decided)
        if self.peers.results.reads:
            from doit_images.core.planning import agreement
            from doit_images.core.planning.wanted import Wanted, all_wanted

            def wanted(names: Iterable[str]) -> dict[str, Wanted]:
                return all_wanted({name: inputs[name] for name in names}, snapshot.platform)

            def look(names: Collection[str]) -> Mapping[str, SharedImage]:
                if unasked := self.peers.results.unasked(wanted(names)):
                    raise Unasked(unasked)
                return self.peers.results.look(wanted(names))

            def recall(names: Collection[str]) -> Mapping[str, SharedImage]:
                return self.peers.results.remembered(wanted(names))

            if not ask and (remembered := agreement.remembered(decided, planned, recall)):
                return self._possible(remembered)
            decided, taken = agreement.Agreement(decided, planned, look, self.content_of).reach(ask, whole)
            if whole:
                self._taken = taken
        if due and not self._taken:
            self.asked.now()
        return self._possible(decided)

    def snapshot(self) -> Snapshot:
        """What the engine holds; asked again after ``changed``."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = self.engine.snapshot()
            return self._snapshot

    def changed(self) -> None:
        """The engine holds other images than before."""
        with self._lock:
            self._snapshot = self._decisions = None
            self._changed = True
            self.engine.forget()
            self.configs.forget()

    def named(self, image_id: str, refs: Sequence[str]) -> None:
        """The engine gave an image these names, and holds what it held: to list hundreds of images takes its time."""
        with self._lock:
            after = self._snapshot and self._snapshot.with_names(image_id, refs)
            self.changed()
            self._snapshot = after

    def built(self, name: str) -> None:
        """This image was built in this run."""
        with self._lock:
            self._built.add(name)
            self._decisions = None

    def config_of(self, local_image: LocalImage) -> ImageConfig:
        """What is known of an image that the engine holds."""
        return self.configs.get(local_image.id, local_image.fixed)

    def on_base(self, refs: Iterable[str]) -> bool:
        """Whether one of these is the base that this project makes itself."""
        return self.own_base is not None and self.own_base.stands_for(refs)

    def base_named(self, ref: str, platform: str) -> tuple[str, LocalImage] | None:
        """The image that the engine holds of an external reference for a platform, by its name there: the reference,
        one beside that, or that of what stands in for it."""
        declared = self.own_base.held(platform) if self.own_base and self.own_base.stands_for([ref]) else None
        there = ((name, self.snapshot().get(name)) for name in (ref, beside(ref, platform)))
        for name, local_image in (declared, *there) if declared else there:
            if local_image and platforms.serves(self.config_of(local_image).platform, platform):
                return name, local_image
        return None

    def stand_ins(self, images: Iterable[ImageInputs]) -> dict[str, str]:
        """The bases of these images for which something stands in that was made here, each with what that is called in
        the engine."""
        own = self.own_base
        if own is None:
            return {}
        read_for = {(ref, one) for inputs in images for ref, some in inputs.read_for.items() for one in some}
        found = {ref: self.base_named(ref, one) for ref, one in sorted(read_for) if own.stands_for([ref])}
        return {ref: named[0] for ref, named in found.items() if named and own.made_here(named[1])}

    def base(self, ref: str, platform: str) -> LocalImage | None:
        """The same without its name."""
        found = self.base_named(ref, platform)
        return found[1] if found else None

    def bases(self, ref: str, wanted: tuple[str, ...]) -> tuple[LocalImage, ...] | None:
        """The images that the engine holds of an external reference for these platforms, if a build can start from just
        them. The engine's own BuildKit with the classic store takes one image for a name: with two, it asks outside."""
        images = tuple(local_image for platform in wanted if (local_image := self.base(ref, platform)))
        several = len({each.id for each in images}) > 1
        return None if len(images) < len(wanted) or (several and not self._hands_over_several) else images

    @property
    def _hands_over_several(self) -> bool:
        """Whether a build can get images of several platforms for one reference."""
        return self.settings.dedicated_builder or self.containerd_store

    def content_of(self, inputs: ImageInputs, local_image: LocalImage) -> str:
        """The content of an image of this project that the engine holds."""
        return self._known().content_of(inputs, local_image)

    def content_after(self, decision: Decision) -> str:
        """The content that an image has once this was done about it; "" where only a build can tell."""
        return self._known().content_after(decision)

    def _known(self) -> plan.Known:
        return plan.Known(self.snapshot(), self.config_of, self._record_of, self.index_of, self.settings.registry_only)

    def index_of(self, inputs: ImageInputs, local_image: LocalImage) -> str:
        """The index of which the engine's image of several platforms is a part, where all of it is here; else ""."""
        from doit_images.core.planning import several  # most images are of one

        return several.index_of(inputs, local_image, self.folder / "results", containerd=self.containerd_store)

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

        dedicated = self.settings.dedicated_builder
        engine, containerd = self.snapshot().platform, self.settings.registry_only or self.containerd_store
        problem = several.problem(inputs, engine, dedicated=dedicated, containerd=containerd)
        return replace(inputs, problem=problem) if problem else inputs

    def _possible(self, decided: dict[str, Decision]) -> dict[str, Decision]:
        """Without the builds that the engine's BuildKit would refuse; a dedicated builder's version is not known."""
        if self.settings.dedicated_builder or not any(each.builds for each in decided.values()):
            return decided
        from doit_images.core.planning import refused  # a run with nothing to build does not even import it

        return refused.without(decided, self.snapshot().version)

    def configs_of(self, ref: str, wanted: tuple[str, ...]) -> tuple[ImageConfig, ...] | None:
        """What is known of an external reference for these platforms, as ``InputResolver.resolve`` asks."""
        images, own = self.bases(ref, wanted), self.own_base
        known = tuple(map(self.config_of, images)) if images else None
        if own is None or not own.stands_for([ref]) or (images and all(map(own.counts, images, wanted))):
            return known
        return own.to_come(wanted) if len(wanted) == 1 or self._hands_over_several else None

    @cached_property
    def own_base(self) -> LocalBase | None:
        """The base that this project makes itself, if it does."""
        return self.parts.base(self)

    def _record_of(self, name: str) -> record.Record | None:
        known = record.read(self.folder, name)
        return known if known and known.ref == self.project.images[name].ref else None
