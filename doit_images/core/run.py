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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

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
    from doit_images.core.history.expected import Expected
    from doit_images.core.planning.plan import Decision

Kept = TypeVar("Kept")
_LONGEST_LOG = 1_000_000  # bytes; then it begins again


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
        self._most_workers = 1
        self._kept: dict[Callable[..., object], object] = {}
        self._given, self._root = files, root or settings.root()
        self._lock = threading.RLock()

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

    @cached_property
    def local_images(self) -> LocalImages:
        """What the engine holds."""
        return self.part(_local_images)

    @cached_property
    def planner(self) -> Planner:
        """What is to be done about each image."""
        return self.part(_planner)

    def learn(self, decided: Mapping[str, Decision]) -> None:
        """Hear how long other machines took for what was decided about."""
        if self.settings.redis_url:
            with extras.told():
                self.expected.learn(decided, self.peers.seconds)


def _local_images(run: Run) -> LocalImages:
    return LocalImages(run.engine, run.settings, run.common, lambda: run.own_base)


def _planner(run: Run) -> Planner:
    return Planner(
        Sources(
            project=run.project,
            settings=run.settings,
            folder=run.folder,
            resolver=run.resolver,
            local_images=run.local_images,
            peers=lambda: run.peers,
            built_on=lambda: run.built_on,
            asked=run.asked,
            learn=run.learn,
        )
    )
