"""How far did a migration come, and what ran before it?

    preparing ──> saving ──> switching ──> starting ──> done     what ran is held by a tag of its own from the first
                     └───────────┴────────────┴──> rolling back  phase to the last, so that there is always a way back
                                                      └──> undone

It is kept beside the project's folders, by the project's name: the standard and the optimized deployment are one
project, declared by two files, and whichever is brought up or taken down ends a migration that was left half-way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from doit_images.core.base import commands, files, lock
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import repository
from doit_images.core.engine.client import Engine, normalise
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.run import Run
from doit_images.stack.containers import Containers, composed

_TAG = "before-migration"


@dataclass(frozen=True)
class Before:
    """What ran as a service before: the reference that it was started from, and the image that this named then."""

    image: str
    image_id: str


class Phase(StrEnum):
    """What a migration is doing."""

    PREPARING = "preparing"
    """Nothing was stopped yet."""
    SAVING = "saving"
    """What may write to the stores is stopped, and they are saved."""
    SWITCHING = "switching"
    """The stores are replaced, and their data is compared with what it was."""
    STARTING = "starting"
    """Everything is replaced, and waited for."""
    DONE = "done"
    """The optimized deployment was healthy; what held the way back goes."""
    ROLLING_BACK = "rolling back"
    UNDONE = "undone"
    """What ran before was healthy again; what held it goes."""


FORWARD = (Phase.SAVING, Phase.SWITCHING, Phase.STARTING)
"""What goes wrong in these leads back."""


@dataclass(frozen=True)
class Journal:
    """How far a migration came, what ran before, by service, the archive that was made (a folder; "" if none was), and
    why it is being rolled back."""

    phase: Phase
    before: Mapping[str, Before] = field(default_factory=dict)
    archive: str = ""
    reason: str = ""


def path_of(run: Run) -> Path:
    """Where the journal of this project's migration is while there is one."""
    return run.common / f"{run.project.name}.migration.json"


def read(path: Path) -> Journal | None:
    """The journal of a migration that is under way, if there is one. ``UserError`` where it cannot be read: it is the
    way back, so it does not count as none."""
    try:
        kept = json.loads(files.content(path))
        before = {name: Before(**each) for name, each in kept["before"].items()}
        return Journal(Phase(kept["phase"]), before, str(kept["archive"]), str(kept["reason"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the journal of a migration that was interrupted cannot be read: {error}",
            where=str(path),
            remedy="look at which containers run, then move it away",
        ) from None


def begun(path: Path, before: Mapping[str, Before]) -> Journal:
    """The journal of a new migration. ``UserError`` where it cannot be kept."""
    journal = Journal(Phase.PREPARING, before)
    write(path, journal)
    return journal


def entered(path: Path, journal: Journal, phase: Phase, reason: str = "") -> Journal:
    """The journal in its next phase, before anything of that is done. ``UserError`` where it cannot be kept, unless
    only an end is left to be made: half of one would be worse, and the next run looks at what runs."""
    journal = replace(journal, phase=phase, reason=reason or journal.reason)
    try:
        write(path, journal)
    except UserError:
        if phase in FORWARD:
            raise
    return journal


def write(path: Path, journal: Journal) -> None:
    """Keep the journal in place of the last. ``UserError`` where it cannot be."""
    files.write_json(path, asdict(journal))


def held_tag(image: str) -> str:
    """The tag that holds what this reference names now, whatever becomes of the reference."""
    return f"{repository(normalise(image))}:{_TAG}"


def hold(engine: Engine, journal: Journal) -> None:
    """See that what ran before cannot go away."""
    for before in journal.before.values():
        engine.tag(before.image_id, held_tag(before.image))


def close(run: Run, journal: Journal) -> None:
    """The migration is over: nothing holds what ran before any more, but what runs now from its tag, and networks go
    that no container is in, running or not."""
    used = {normalise(container.image) for container in Containers(run.project.name).look()}
    snapshot = run.engine.snapshot()
    for tag in {held_tag(before.image) for before in journal.before.values()}:
        if snapshot.get(tag) and normalise(tag) not in used:
            run.engine.untag(tag)
    belonging = Containers(run.project.name).belongings().networks
    joined = {name for stack in composed() for name in stack.resources}
    if idle := [name for name in belonging if name not in joined]:
        commands.run(["docker", "network", "rm", *idle], env=leading_to(run.engine.address))
    path_of(run).unlink(missing_ok=True)


def end_left(run: Run, after: str) -> None:
    """End a migration that was left half-way, ``after`` the task ``up`` or ``down`` has done its work: what it would go
    back to is not wanted any more. Whoever changes this stack at this moment decides for itself."""
    why = {"up": "this stack is healthy", "down": "its containers are gone"}[after]
    with lock.try_exclusive(lock.of_engine(run.engine.address, "stack", run.project.name)) as ours:
        if not ours or not (journal := read(path_of(run))):
            return
        if after == "up" or not Containers(run.project.name).look():
            close(run, journal)
            print(f"a migration was left while {journal.phase}; {why}, so it is over", file=sys.stderr)
