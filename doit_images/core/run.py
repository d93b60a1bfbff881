"""What is one run of doit composed of?

Settings, project, engine, history, the other machines, what the engine holds (``local_images``) and what would be done
about each image (``planner``): each made once, when it is first asked for, and shared by every task of the run. Nothing
here happens at import.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from doit_images.core.around import Alone, LocalBase, Peers
from doit_images.core.base import extras, places, settings
from doit_images.core.base import files as base_files
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import CommandStarted, Events
from doit_images.core.base.task_names import PLAIN, TaskNames
from doit_images.core.compose import env_files, project
from doit_images.core.engine.client import Engine
from doit_images.core.history.store import History
from doit_images.core.inputs import environment
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.local_images import LocalImages
from doit_images.core.planner import Planner, Sources
from doit_images.core.planning.asked import LastAsked

if TYPE_CHECKING:
    from doit_images.core.buildkit.backends import Backend
    from doit_images.core.capacity import BuildCapacity
    from doit_images.core.external_bases import ExternalBases
    from doit_images.core.history.expected import Expected
    from doit_images.core.planning.plan import Decision

Made = TypeVar("Made")
_LONGEST_LOG = 1_000_000  # bytes; then it begins again


class _once(cached_property[Made]):  # noqa: N801 - as what it is made of
    """A part of a run that several threads may ask for at the same time, and that is made once."""

    def __get__(self, run: Run, kind: type[Run] | None = None) -> Made:  # type: ignore[override]
        with run.lock:
            return super().__get__(run, kind)


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
        self.selected: frozenset[str] | None = None
        """The images that this run was asked for, as opposed to what they need; None is all."""
        self.caller = environ
        """The environment that this run was started in."""
        self.beginning, self.begun = threading.Lock(), False
        """The first build begins while the lock is held; whether it has."""
        self.parents: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """Held while a parent that was removed or edited meanwhile is made again, for all its children once."""
        self._most_workers = 1
        self._given, self._root = files, root or settings.root()
        self.lock = threading.RLock()
        """Held while a part of the run is made."""

    def anew(self, environ: Mapping[str, str] | None = None, files: tuple[Path, ...] | None = None) -> Run:
        """A run of the same project that has looked at nothing yet; or of other files, in another environment."""
        return Run(files or self.files, self.environ if environ is None else environ, self._root, self.parts)

    @property
    def workers(self) -> int:
        """How many images can be worked on at once: the most workers that were seen so far."""
        self._most_workers = max(self._most_workers, self.count_workers())
        return self._most_workers

    def heard_command(self, line: str) -> None:
        """A command is about to be started: told as an event, and kept in the project's log, from which people can
        paste it into a shell."""
        self.events.emit(CommandStarted(line))
        with contextlib.suppress(OSError, UserError):  # where there is no folder, there is no log
            log = self.folder / "commands.log"
            whole = log.exists() and log.stat().st_size > _LONGEST_LOG
            with base_files.log(log, append=not whole) as stream:
                stream.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} of run {self.id}\n{line}\n")

    @_once
    def peers(self) -> Peers:
        """The other machines that build this project."""
        return self.parts.peers(self)

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
        loaded = project.load(self.files, self.environ)
        if any(secret.counts for image in loaded.images.values() for secret in image.secrets):
            from doit_images.core.compose import counted_secrets  # hardly any project has one

            return counted_secrets.counted(loaded, self.settings.secrets_key, self.environ)
        return loaded

    @cached_property
    def engine(self) -> Engine:
        """The engine that images are built with and kept in."""
        return Engine()

    @property
    def built_on(self) -> tuple[str, ...]:
        """The platforms that builds run on, as far as a dedicated builder was seen here."""
        if not self.settings.dedicated_builder:
            return ()
        from doit_images.core.buildkit import builder  # most builds are the engine's own

        return builder.platforms(self.settings, self.common, self.local_images.snapshot().platform)

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
    def asked(self) -> LastAsked:
        """When the shared registry was last asked about images that are fresh here."""
        return LastAsked(self.folder, (self.settings.cache_registry, self.engine.address), self.settings.cache_ask)

    @cached_property
    def expected(self) -> Expected:
        """How long each image takes, as far as history knows."""
        from doit_images.core.history.expected import Expected  # a run with nothing to do forecasts nothing

        return Expected(self.history, self.project.images.values())

    @cached_property
    def own_base(self) -> LocalBase | None:
        """The base that this project makes itself, if it does."""
        return self.parts.base(self)

    @_once
    def local_images(self) -> LocalImages:
        """What the engine holds."""
        return LocalImages(self.engine, self.settings, self.common, lambda: self.own_base)

    @_once
    def external_bases(self) -> ExternalBases:
        """The images from outside that builds start from."""
        from doit_images.core.external_bases import ExternalBases  # only what is built starts from any

        return ExternalBases(self.engine, self.local_images, self.environ, lambda: self.own_base)

    @_once
    def capacity(self) -> BuildCapacity:
        """What the engine's machine has for builds at the same time."""
        from doit_images.core import capacity  # only builds take any
        from doit_images.core.planning import forecast

        return capacity.BuildCapacity(
            self.project.needs,
            lambda: capacity.of_engine(self.engine, self.settings.build_memory),
            lambda: forecast.urgency(self.planner.declared(), self.expected.builds),
        )

    @property
    def cache_folder(self) -> Path:
        """The folder of the local cache backend."""
        return (self.project.directory / (self.settings.cache_dir or self.folder / "cache")).resolve()

    @property
    def cache_backend(self) -> Backend:
        """Where BuildKit's cache is kept; ``UserError`` where the builder cannot do what is asked for."""
        from doit_images.core.buildkit import backends  # most runs build nothing

        folder, exports = lambda: self.cache_folder, lambda: self.local_images.containerd_store
        return backends.of(self.settings, self.environ, self.project.directory, folder, exports)

    @_once
    def planner(self) -> Planner:
        """What is to be done about each image."""
        return Planner(
            Sources(
                project=self.project,
                settings=self.settings,
                folder=self.folder,
                resolver=self.resolver,
                local_images=self.local_images,
                peers=lambda: self.peers,
                built_on=lambda: self.built_on,
                asked=self.asked,
                learn=self.learn,
            )
        )

    def learn(self, decided: Mapping[str, Decision]) -> None:
        """Hear how long other machines took for what was decided about."""
        if self.settings.redis_url:
            with extras.told():
                self.expected.learn(decided, self.peers.seconds)
