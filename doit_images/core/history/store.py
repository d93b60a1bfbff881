"""What was built before?

Every build leaves one row in an SQLite file. Forecasts, reports and ``doit history`` read from it. Several
processes may write at once (each waits for the other), each row is one transaction, and every call opens
its own short connection, so any thread may call and a killed process leaves nothing half-written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit_images.core.base import checked_json
from doit_images.core.base.errors import UserError
from doit_images.core.base.shapes import fits

if TYPE_CHECKING:
    import sqlite3

    from doit_images.core.buildkit.progress import Progress

KEEP = 10_000
"""How many builds are kept; older rows are dropped when new ones are added."""

RECENT = 7
"""How many of an image's last real builds the forecast is the median of."""

StepKey = tuple[str, int]
"""What a step is known by: its words, and how many steps of that build with the same words come before it."""

_BUSY_SECONDS = 15.0
_LONGEST = 1e7  # seconds: no build takes four months
_LARGEST = 1e11  # seconds and bytes: years that have four digits, images of less than 100 GB
_NUMBERED = re.compile(r"(?:^| )stage-[0-9]+$")


class StepOutcome(StrEnum):
    """What came of a step."""

    EXECUTED = "executed"
    CACHED = "cached"
    FAILED = "failed"


@dataclass(frozen=True)
class StepRecord:
    """One step of a stored build; ``number`` is 0 for what no Dockerfile line asked for.

    ``why`` says why it was executed and not taken from the cache, ``line`` of one that failed at which line of the
    Dockerfile BuildKit pointed; 0: at none.
    """

    name: str
    stage: str = ""
    number: int = 0
    total: int = 0
    started: float | None = None
    seconds: float = 0.0
    cached: bool = False
    error: str = ""
    why: str = ""
    line: int = 0

    @property
    def words(self) -> str:
        """Its stage and instruction, without what changes when a step or a stage is put before it: its number, and what
        BuildKit calls a stage that has no name. Of FROM only the word: an image may have a temporary name."""
        text = self.name.partition("] ")[2] or self.name
        if text.upper().startswith("FROM "):
            text = text[:4]
        return f"{_NUMBERED.sub('', self.stage.strip())} {text}"

    @property
    def outcome(self) -> StepOutcome:
        """What came of it."""
        if self.error:
            return StepOutcome.FAILED
        return StepOutcome.CACHED if self.cached else StepOutcome.EXECUTED

    @property
    def work(self) -> bool:
        """Whether it can be cached at all: an instruction other than ``FROM``."""
        return self.number > 0 and not self.name.split("] ", 1)[-1].upper().startswith("FROM ")


class Status(StrEnum):
    """How the work on an image ended."""

    DONE = "done"
    FAILED = "failed"
    INPUTS_CHANGED = "moved"
    """It was built, but its inputs changed meanwhile."""


@dataclass(frozen=True)
class Build:
    """What happened to one image in one run. ``started`` is in seconds since the epoch, UTC.

    ``action`` and ``status`` are an ``Action`` and a ``Status``, or what another version calls so. ``waited``: seconds
    of the run that passed before it began. ``layers``: (digest, bytes) from the base up. ``run`` is the same for all
    images of one run of doit.
    """

    image: str
    ref: str
    fingerprint: str
    action: str
    status: str
    reasons: tuple[str, ...]
    started: float
    seconds: float
    waited: float = 0.0
    steps: tuple[StepRecord, ...] = ()
    size: int | None = None
    layers: tuple[tuple[str, int], ...] | None = None
    image_id: str = ""
    builder: str = ""
    commit: str = ""
    workers: int = 1
    run: str = ""
    parents: tuple[str, ...] = ()
    id: int = 0

    @property
    def causes(self) -> tuple[str, ...]:
        """Why it was done, in sentences: its reasons, or that none was recorded."""
        return self.reasons or ("no reason was recorded",)

    @property
    def outcome(self) -> str:
        """What was done, and how it ended where it did not end well: ``build``, ``build failed``."""
        return self.action if self.status == Status.DONE else f"{self.action} {self.status}"

    @property
    def ended(self) -> float:
        """When it ended, in seconds since the epoch."""
        return self.started + self.seconds

    @property
    def cached_steps(self) -> int:
        """How many of its instruction steps came from the cache."""
        return sum(step.cached for step in self.steps if step.work)

    @property
    def work_steps(self) -> int:
        """How many instruction steps it has, ``FROM`` not counted."""
        return sum(step.work for step in self.steps)


def keyed(steps: Iterable[StepRecord]) -> Iterator[tuple[StepKey, StepRecord]]:
    """The steps that can be cached, each with what it is known by from build to build."""
    seen: Counter[str] = Counter()
    for step in sorted((step for step in steps if step.work), key=lambda step: (step.stage.strip(), step.number)):
        yield (step.words, seen[step.words]), step
        seen[step.words] += 1


def steps_of(progress: Progress, line: int = 0) -> tuple[StepRecord, ...]:
    """The steps of a build that began, in that order, as they are stored; the one that ended it failed at ``line``."""
    failed = progress.failed() if line else None
    begun = sorted((step for step in progress.steps if step.index), key=lambda step: step.index)
    return tuple(
        StepRecord(
            name=" ".join(step.name.split()),
            stage=step.stage,
            number=step.number,
            total=step.total,
            started=step.started,
            seconds=round(step.seconds, 6),
            cached=step.cached,
            error=step.error,
            why=progress.reason(step),
            line=line if step is failed else 0,
        )
        for step in begun
    )


# Each entry takes a file from version i to i + 1 (SQLite's own user_version); a released one never changes.
_MIGRATIONS = (
    """
    CREATE TABLE builds (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        image TEXT NOT NULL, ref TEXT NOT NULL, fingerprint TEXT NOT NULL,
        action TEXT NOT NULL, status TEXT NOT NULL, reasons TEXT NOT NULL,
        started REAL NOT NULL, seconds REAL NOT NULL, waited REAL NOT NULL,
        steps TEXT NOT NULL, size INTEGER, layers TEXT, image_id TEXT NOT NULL, builder TEXT NOT NULL,
        "commit" TEXT NOT NULL, workers INTEGER NOT NULL, run TEXT NOT NULL, parents TEXT NOT NULL
    );
    CREATE INDEX builds_forecast ON builds (ref, action, status, id, seconds);
    CREATE INDEX builds_image ON builds (image, id);
    CREATE INDEX builds_run ON builds (run, id);
    """,
)

_COLUMNS = tuple(field.name for field in fields(Build))
_JSON = frozenset({"reasons", "steps", "layers", "parents"})
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)

_FORECAST = """
    SELECT asked.value, (SELECT group_concat(seconds) FROM (
        SELECT seconds FROM builds
        WHERE ref = asked.value AND action = ? AND status = 'done' ORDER BY id DESC LIMIT ?))
    FROM json_each(?) AS asked
"""


class History:
    """The builds stored in the SQLite file ``path``; no file yet is an empty history.

    A file that is damaged is put aside, told once, and a new one begins; so does a row that is. Every method raises
    ``UserError`` when the file cannot be read or written now, or is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        """Remember where; nothing is opened or made before the first call."""
        self.path = path

    def add(self, build: Build) -> int:
        """Store a build, drop what is too old, and return the id that the build now has."""
        try:
            return self._add(build)
        except _Damaged:
            return self._add(build)

    def _add(self, build: Build) -> int:
        values = [_stored(name, getattr(build, name)) for name in _COLUMNS if name != "id"]
        columns = ", ".join(f'"{name}"' for name in _COLUMNS if name != "id")
        marks = ", ".join("?" * len(values))
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            number = db.execute(f"INSERT INTO builds ({columns}) VALUES ({marks})", values).lastrowid  # noqa: S608
            db.execute("DELETE FROM builds WHERE id <= ?", ((number or 0) - KEEP,))
            db.execute("COMMIT")
        return number or 0

    def recent(self, image: str | None = None, limit: int = 50) -> list[Build]:
        """The last ``limit`` builds, of one image or of all, newest first."""
        where, values = ("WHERE image = ?", [image]) if image else ("", [])
        return self._select(f"{where} ORDER BY id DESC LIMIT ?", *values, limit)

    def get(self, number: int) -> Build | None:
        """The build with an id, or ``None``."""
        return next(iter(self._select("WHERE id = ?", number)), None)

    def last_run(self) -> list[Build]:
        """All of the last run that built something, else of the last run at all, in order of start."""
        builds: list[Build] = []
        for only in ("WHERE action = 'build'", ""):
            builds = builds or self._select(
                f"WHERE run = (SELECT run FROM builds {only} ORDER BY id DESC LIMIT 1)"  # noqa: S608
            )
        return sorted(builds, key=lambda build: (build.started, build.id))

    def expected_seconds(self, refs: Iterable[str], action: str = "build") -> dict[str, float]:
        """How long a build (or a ``pull``) of each image reference will take: the median of its last successful ones.

        By reference, because two Compose files in one folder may call different images by the same service. One query
        on one index. Images that were never built are not in the answer.
        """
        rows = self._rows(_FORECAST, action, RECENT, json.dumps(list(refs)))
        known = {ref: _seconds(listed) for ref, listed in rows}
        return {ref: median(seconds) for ref, seconds in known.items() if seconds}

    def _select(self, rest: str, *values: object) -> list[Build]:
        rows = self._rows(f"SELECT {_NAMES} FROM builds {rest}", *values)  # noqa: S608
        builds = [_loaded(dict(zip(_COLUMNS, row, strict=True))) for row in rows]
        if None in builds:
            checked_json.damaged(self.path)
        return [build for build in builds if build]

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What SQLite answers; nothing where there is no history yet, or none any more."""
        try:
            if not os.path.lexists(self.path):  # never raises: in a folder of somebody else's there is none for us
                return []
            with self._connected() as db:
                return db.execute(query, values).fetchall()
        except _Damaged:
            return []

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        import sqlite3

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            db.text_factory = lambda text: text.decode(errors="replace")
            try:
                self._migrate(db)
                yield db
            finally:
                db.close()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            if checked_json.is_damage(error) and self._put_aside():
                raise _Damaged from None
            raise UserError(
                f"the build history cannot be used: {error}",
                where=str(self.path),
                remedy=checked_json.remedy(self.path, error),
            ) from error

    def _put_aside(self) -> bool:
        """Move a damaged file away, so that a new history begins; whether that could be done."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with contextlib.suppress(OSError):
            self.path.replace(aside)
            checked_json.tell(
                f"{self.path}: the build history was damaged; it is kept as {aside.name}, and a new one begins"
            )
            return True
        return False

    def _migrate(self, db: sqlite3.Connection) -> None:
        if _version(db) == len(_MIGRATIONS):
            return
        db.execute("BEGIN IMMEDIATE")
        version = _version(db)  # again: another process may have been faster
        if version > len(_MIGRATIONS):
            db.execute("ROLLBACK")
            raise Newer(
                f"the build history is of version {version}, this program knows {len(_MIGRATIONS)}",
                where=str(self.path),
                remedy="use the newer program, or move the file away",
            )
        for script in _MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        db.execute("COMMIT")


def median(numbers: Iterable[float]) -> float:
    """As ``statistics.median``, whose import every run with nothing to do would pay for."""
    ordered = sorted(numbers)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


class Newer(UserError):
    """The file is of a newer version of this program."""


class _Damaged(Exception):
    """The file was no sound database, and is put aside."""


def _seconds(listed: str | None) -> list[float]:
    """The times of builds in a list, without what can be none."""
    times = []
    for text in (listed or "").split(","):
        with contextlib.suppress(ValueError):
            times.append(float(text))
    return [seconds for seconds in times if 0 <= seconds < _LONGEST]


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _stored(name: str, value: Any) -> Any:
    if name not in _JSON or value is None:
        return value
    return json.dumps([asdict(item) for item in value] if name == "steps" else value, separators=(",", ":"))


def _loaded(row: dict[str, Any]) -> Build | None:
    """The build of a row; None if the row is damaged."""
    try:
        values: dict[str, Any] = {name: json.loads(row[name] or "null") for name in _JSON}
        known = {field.name for field in fields(StepRecord)}
        steps = tuple(StepRecord(**{k: v for k, v in step.items() if k in known}) for step in values["steps"])
        layers = None if values["layers"] is None else tuple(map(tuple, values["layers"]))
        reasons, parents = tuple(values["reasons"]), tuple(values["parents"])
        build = Build(**row | {"reasons": reasons, "parents": parents, "steps": steps, "layers": layers})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    numbers = (build.started, build.seconds, build.waited, build.workers, build.size or 0)
    sound = (
        fits(build, Build)
        and all(0 <= number < _LARGEST for number in numbers)
        and all(0 <= step.seconds < _LONGEST and (step.started or 0) >= 0 for step in steps)
    )
    return build if sound else None
