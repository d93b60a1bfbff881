"""What does one run of doit know?

Settings, project, engine, what the images are made of and what would be done about them: each gathered once, when
it is first asked for, and shared by every task of the run. Nothing here happens at import.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

from tasks import plan, project, record, settings, survey
from tasks.engine import Engine, Facts, Snapshot, host_platform
from tasks.history import History


class Workspace:
    """One project seen by one run. Methods may be called from any thread and raise ``Trouble``."""

    def __init__(self, files: tuple[Path, ...] | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._given = files
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._declared: dict[str, survey.Surveyed] | None = None
        self._decisions: dict[str, plan.Decision] | None = None

    @cached_property
    def settings(self) -> settings.Settings:
        """All settings of this run."""
        return settings.load(environ=self._environ)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The project's Compose files."""
        return self._given or project.compose_files(self._environ)

    @cached_property
    def folder(self) -> Path:
        """The project's ``.build`` folder."""
        return project.build_folder(self.files)

    @cached_property
    def environ(self) -> Mapping[str, str]:
        """The environment that Compose and builds run in: the caller's, with the certificates that builds trust."""
        return settings.build_environ(self.settings, self._environ)

    @cached_property
    def project(self) -> project.Project:
        """The resolved Compose project."""
        return project.load(self.files, self.environ)

    @cached_property
    def engine(self) -> Engine:
        """The engine that images are built with and kept in."""
        return Engine()

    @cached_property
    def history(self) -> History:
        """Every build that was done for this project."""
        return History(self.folder / "history" / "history.sqlite3")

    @cached_property
    def surveyor(self) -> survey.Surveyor:
        """Reads Dockerfiles and walks contexts, each once."""
        return survey.Surveyor(self.project, self.folder)

    @cached_property
    def facts(self) -> survey.FactsCache:
        """What never changes about the images that the engine holds."""
        return survey.FactsCache(self.folder / "facts.json", self.engine.facts)

    @cached_property
    def expected_seconds(self) -> dict[str, float]:
        """How long each image takes to build, as far as history knows."""
        return self.history.expected_seconds(self.project.images)

    def declared(self) -> dict[str, survey.Surveyed]:
        """What each image is made of, parents first, found without asking the engine: enough for ``file_dep``."""
        with self._lock:
            if self._declared is None:
                self._declared = self.surveyor.survey(host_platform(), lambda ref: None)
            return self._declared

    def decisions(self) -> dict[str, plan.Decision]:
        """What would be done about each image, and why; made anew after ``changed``."""
        with self._lock:
            if self._decisions is None:
                surveyed = self.surveyor.survey(self.snapshot().platform, self._facts_of)
                self._decisions = plan.plan(surveyed, self.snapshot(), self.content_of, self._record_of)
                self.surveyor.keep()
                self.facts.keep(held.id for held in self.snapshot().by_name.values())
            return self._decisions

    def decide(self, name: str) -> plan.Decision:
        """What is to be done about one image now that its parents are ready."""
        return self.decisions()[name]

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

    def content_of(self, image_id: str) -> str:
        """The content of an image that the engine holds."""
        return self.facts.get(image_id).content

    def resurvey(self, name: str) -> survey.Surveyed:
        """What an image is made of at this moment, with every folder walked anew."""
        anew = survey.Surveyor(self.project, self.folder)
        return anew.survey(self.snapshot().platform, self._facts_of, only=name)[name]

    def _facts_of(self, ref: str) -> Facts | None:
        held = self.snapshot().get(ref)
        return self.facts.get(held.id) if held else None

    def _record_of(self, name: str) -> record.Record | None:
        return record.read(self.folder, name)


@cache
def current() -> Workspace:
    """The workspace of this process."""
    return Workspace()
