"""What does doit remember of its tasks, and what happens where it cannot?

doit keeps it in an SQLite file, whose every trouble is a traceback of its own: damage, a full disk, a folder that root
owns. All that it decides is whether a record is written again, so whatever cannot be read counts as unknown.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from doit import cmd_base, dependency

from doit_images.core.base import checked_json

T = TypeVar("T")
_DIGITS = 8  # of the checksum, hexadecimal
_TASK = "task:"
# Of a damaged file even SQLite's message may be no text.
_ERRORS = (sqlite3.Error, UnicodeDecodeError, dependency.DatabaseException)


class Codec:
    """How what is known of a task is kept as text: JSON behind a checksum."""

    def encode(self, data: object) -> str:
        """What is known of a task as text."""
        text = json.dumps(data)
        return _sum(text) + text

    def decode(self, text: str) -> dict[str, Any]:
        """What ``encode`` was given; nothing for a text that is damaged, or of an older version."""
        if text[:_DIGITS] != _sum(text[_DIGITS:]):
            return {}
        content = json.loads(text[_DIGITS:])
        return content if isinstance(content, dict) else {}


class Memory(dependency.SqliteDB):  # type: ignore[misc]
    """doit's backend ``sqlite3``, which no error stops: what cannot be read counts as unknown, what cannot be written
    is reported once. A damaged file is replaced by a new one."""

    def __init__(self, name: str, codec: Codec, *, module_name: None = None) -> None:
        try:
            super().__init__(name, codec)
        except _ERRORS as error:
            super().__init__(":memory:", codec)
            self.name = name
            self._trouble(error)

    def _sqlite3(self, name: str) -> sqlite3.Connection:
        """The file opened. Nothing waits for the disk: with one that others use that takes seconds, also for a run that
        is interrupted, and what a power failure damages is begun again."""
        connection: sqlite3.Connection = super()._sqlite3(name)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def _get_task_data(self, task_id: str) -> object:
        known: Any = self._tried(lambda: super(Memory, self)._get_task_data(task_id), None)
        # A damaged file may give the row of another task.
        return known if isinstance(known, dict) and known.get(_TASK) == task_id else {}

    def set(self, task_id: str, dependency: str, value: object) -> None:
        """Remember this of a task."""
        super().set(task_id, dependency, value)
        self._cache[task_id][_TASK] = task_id

    def in_(self, task_id: str) -> object:
        """Whether anything is known of this task."""
        return self._tried(lambda: super(Memory, self).in_(task_id), otherwise=False)

    def remove(self, task_id: str) -> None:
        """Forget this task."""
        self._tried(lambda: super(Memory, self).remove(task_id), None)

    def remove_all(self) -> None:
        """Forget all tasks."""
        self._tried(super().remove_all, None)

    def dump(self) -> None:
        """Write down what is new; called once, at the end."""
        self._tried(super().dump, None)
        with contextlib.suppress(sqlite3.Error):
            self._conn.close()

    def _tried(self, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except _ERRORS as error:
            self._trouble(error)
            return otherwise

    def _trouble(self, error: Exception) -> None:
        """Tell what is wrong with the file; one that is no sound database goes away: another is begun."""
        if isinstance(error, dependency.DatabaseException) and isinstance(error.__context__, Exception):
            error = error.__context__  # doit's own does not tell of what kind it is
        path = Path(self.name)
        if not checked_json.is_damage(error):
            checked_json.unwritten(path, error)
            return
        checked_json.damaged(path)
        with contextlib.suppress(OSError, *_ERRORS):
            path.unlink()
            self._conn.close()
            self._conn: sqlite3.Connection = self._sqlite3(":memory:")
            self._conn = self._sqlite3(self.name)


class _Known(dependency.Dependency):  # type: ignore[misc]
    """What doit finds out about a task: of an image's files nothing one by one, for its ``Freshness`` compares all of
    them, by their content. Of 100,000 files doit would keep, read and compare as many times in each run."""

    def get_status(self, task: object, *more: object, **named: object) -> Any:
        """Whether a task has to run."""
        with _without_files(task):
            return super().get_status(task, *more, **named)

    def save_success(self, task: object, *more: object, **named: object) -> None:
        """Remember that a task ran."""
        with _without_files(task):
            super().save_success(task, *more, **named)


@contextlib.contextmanager
def _without_files(task: Any) -> Iterator[None]:
    files = task.file_dep
    if "image" in (task.meta or {}):
        task.file_dep = set()
    try:
        yield
    finally:
        task.file_dep = files


def install() -> None:
    """Let doit keep what it remembers in ``Memory``. Of its checker, codec and reporter it takes a class, but its
    backend it knows by name alone."""

    def kept(_: object, name: str, **options: object) -> Any:
        return _Known(Memory, name, **options)

    cmd_base.Dependency = kept


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode(errors='surrogateescape')):08x}"
