"""How is doit itself set up?"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from doit_images.cli import command_line, doit_memory, doit_order, process
from doit_images.cli.part import activate_profiles
from doit_images.cli.process import current
from doit_images.cli.stack import needs_env_file
from doit_images.core.base import leftovers, settings
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import CommandEnded
from doit_images.core.base.places import project_folder
from doit_images.core.building.events import ImageState
from doit_images.core.compose.project import compose_files
from doit_images.core.run import Run
from doit_images.ui.reporter import Reporter, sentence

if TYPE_CHECKING:
    from doit_images.ui.event_lines import EventLines

_STATE = ("backend", "dep_file", "codec_cls")
_OBJECTS = 200_000  # so many more before cycles are looked for


class _Reporter(Reporter):
    """doit tells its reporter, and nobody else, that a run begins and ends."""

    def __init__(self, outstream: TextIO, options: Mapping[str, object]) -> None:
        super().__init__(outstream, {**options, "quiet": command_line.is_quiet()}, current())
        self._status = 0
        current().events.listen(self._heard)
        self._lines: EventLines | None = None
        if command_line.tells_events():
            from doit_images.ui.event_lines import EventLines  # most runs tell people alone

            self._lines = EventLines(sys.stdout, process.names())
            current().events.listen(self._lines.heard)

    def _heard(self, event: object) -> None:
        if isinstance(event, CommandEnded):
            self._status = event.status

    def skip_uptodate(self, task: Any) -> None:
        """A task was fresh."""
        super().skip_uptodate(task)
        if self._lines and (image := (task.meta or {}).get("image")):
            self._lines.write("ended", image=image, state=ImageState.FRESH, bytes=None)

    def add_failure(self, task: Any, fail: Any) -> None:
        """A task failed, or could not begin because one that it needs failed."""
        super().add_failure(task, fail)
        if self._lines:
            self._lines.write("failed", task=task.name, image=(task.meta or {}).get("image"), text=sentence(fail))

    def complete_run(self) -> None:
        """The run is over: with the status of a command that somebody asked for, if that is not 0."""
        super().complete_run()
        if self._status and sys.exc_info()[0] is None:
            raise SystemExit(self._status)

    def initialize(self, *args: Any) -> None:
        """A run begins: first what killed runs left goes."""
        super().initialize(*args)
        run = current()
        if journals := leftovers.abandoned(run.journals):
            from doit_images.pruning import killed_runs  # most runs have none

            if count := killed_runs.sweep(journals):
                run.events.say(f"removed {count} temporary files and names that a killed run had left")


def _make_env() -> None:
    from doit_images.stack.stack import make_env  # few runs start a stack

    run = Run(parts=process.parts())  # not this process's, which is to see what is made here
    leftovers.keep_in(lambda: run.journals)
    make_env(run)


def doit_config() -> dict[str, object]:
    """What ``DOIT_CONFIG`` must be. Reads ``.env`` and makes the project's folder in ``.doit-images``, no more.
    For a task that needs ``.env`` it makes that too: settings, Compose's files and contexts are read before any task
    runs. Raises doit's ``InvalidDodoFile``, which doit prints as one sentence, for a setting that is wrong."""
    from doit.exceptions import InvalidDodoFile

    try:
        if needs_env_file(sys.argv):
            _make_env()
        activate_profiles(sys.argv)
        jobs = settings.load().build_jobs
        folder = project_folder(compose_files(), os.environ)
    except UserError as error:
        raise InvalidDodoFile(process.names().in_text(str(error))) from None
    # A run makes many objects and next to no cycles: to look for them as often as usual is 3 % of what 300 images take.
    gc.set_threshold(_OBJECTS)
    # What is left when doit ends goes with the process; Python would search it all for cycles before.
    atexit.register(gc.freeze)
    doit_memory.install()
    doit_order.install()
    command_line.install()
    return {
        "default_tasks": [process.names()("build")],
        "minversion": "0.37.0",
        # The only backend in which two runs at once keep both their records.
        "backend": "sqlite3",
        "dep_file": str(folder / "doit.sqlite3"),
        "codec_cls": doit_memory.Codec,
        # Builds are subprocesses, so threads are enough, and nothing has to be pickled.
        "par_type": "thread",
        "num_process": jobs,
        "check_file_uptodate": "timestamp",
        "reporter": _Reporter,
    }


def merged(
    ours: Mapping[str, object], theirs: Mapping[str, object], own: Collection[str], here: Collection[str]
) -> dict[str, object]:
    """``DOIT_CONFIG`` of a project that has one of its own and tasks of its own; ``here`` are
    our tasks' names.

    Where doit keeps its state is ours, whoever's the rest is: a file of theirs is of another kind, and is to be as it
    was when we have gone. Their tasks are what ``doit`` runs alone, and run one after the other, as doit does: they may
    count on that.
    """
    chosen = dict(ours)
    if own:
        chosen["default_tasks"] = own
        if not _only_ours(sys.argv, own, here):
            del chosen["num_process"]
    return {**chosen, **theirs, **{name: ours[name] for name in _STATE}}


def _only_ours(argv: Sequence[str], own: Collection[str], here: Collection[str]) -> bool:
    """Whether a command line names tasks of ours, and none of the project's own.

    >>> _only_ours(["doit", "-n", "2", "build:web"], ["docs"], ["build"])
    True
    >>> _only_ours(["doit", "build", "docs:html"], ["docs"], ["build"]), _only_ours(["doit"], ["docs"], ["build"])
    (False, False)
    """
    words = {word.partition(":")[0] for word in argv[1:]}
    return not words.isdisjoint(here) and words.isdisjoint(own)
