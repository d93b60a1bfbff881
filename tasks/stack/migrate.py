"""From a running standard deployment to the optimized one, with a way back.

    look ── plan shown, agreed ── build ── journal ── switch ── healthy? ──> done
                                              │                    └──────── roll back to the very images that ran
                                              └── a killed run left it: the next goes on from there

Both deployments have the same project name and the same volumes, so the switch is Compose's own: it replaces the
containers one by one. Nothing is stopped before everything is built. The journal, ``migration.json`` in the project's
folder, says how far it came and which images ran before; these are held by a tag of their own until the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from tasks.base import files
from tasks.base.confirm import confirm
from tasks.base.errors import UserError
from tasks.base.formatting import because, seconds_text
from tasks.base.references import repository
from tasks.compose.stack import Compose, Service
from tasks.engine.client import normalise
from tasks.engine.containers import Container, Containers, Event
from tasks.planning.plan import Decision
from tasks.run import Run
from tasks.stack import bringup, images
from tasks.stack.ci import doit
from tasks.stack.events import ServicesListed
from tasks.stack.stack import compose_of, locked, make_env
from tasks.stack.standard import standard_of
from tasks.stack.status import rows_of

_TAG = "before-migration"


@dataclass(frozen=True)
class Before:
    """What ran as a service before: the reference that it was started from, and the image that this named then."""

    image: str
    image_id: str


class Phase(StrEnum):
    """What a migration is doing."""

    SWITCHING = "switching"
    ROLLING_BACK = "rolling back"


@dataclass(frozen=True)
class Journal:
    """How far a migration came, and what ran before, by service."""

    phase: Phase
    before: Mapping[str, Before]


@dataclass(frozen=True)
class Change:
    """One line of the plan: a service, what runs, what will, and the volumes that both use."""

    service: str
    old: str
    new: str
    volumes: tuple[str, ...]


def migrate(run: Run, dry_run: bool, yes: bool) -> None:
    """Migrate, or go on with a migration that was interrupted.

    ``UserError`` when there is nothing to migrate, when data would be left behind, and when the new stack did not
    become healthy: the old one is back then."""
    with locked(run):
        journal = read_journal(run.folder)
        if journal is None:
            changes = _plan(run)
            if not changes:
                print(f"{run.project.name} is the optimized deployment already", file=sys.stderr)
                return
            _print_plan(run, changes)
            if dry_run:
                return
            if not yes:
                confirm()
            make_env(run)
            if doit(["run", "build_optimized"]):
                raise UserError("an image could not be built; nothing was stopped")
            journal = _begin(run)
        elif dry_run:
            print(f"a migration was interrupted while {journal.phase}; without --dry-run this goes on", file=sys.stderr)
            return
        else:
            print(f"going on with a migration that was interrupted while {journal.phase}", file=sys.stderr)
        if journal.phase == Phase.ROLLING_BACK:
            _roll_back(run, journal, [], "the migration that was interrupted had failed")
        _switch(run, journal)


def read_journal(folder: Path) -> Journal | None:
    """The journal of a migration that is under way, if there is one. ``UserError`` where it cannot be read: it is the
    way back, so it does not count as none."""
    path = _journal_path(folder)
    try:
        kept = json.loads(files.content(path))
        return Journal(Phase(kept["phase"]), {name: Before(**before) for name, before in kept["before"].items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the journal of a migration that was interrupted cannot be read: {error}",
            where=str(path),
            remedy="look at which containers run, then move it away",
        ) from None


def changes_between(
    containers: Sequence[Container], standard: Mapping[str, Service], optimized: Mapping[str, Service]
) -> list[Change]:
    """What the switch changes, by service: those that run the standard image and have another optimized one.
    ``UserError`` when a service keeps data in a volume that its optimized counterpart does not use."""
    changes = []
    for container in sorted(containers, key=lambda container: container.service):
        old, new = standard.get(container.service), optimized.get(container.service)
        if old is None or new is None or not container.running or normalise(container.image) == normalise(new.image):
            continue
        left = sorted(set(container.volumes.values()) & set(old.volumes.values()) - set(new.volumes.values()))
        if left:
            raise UserError(
                f"{container.service} keeps data in the volume {left[0]}, which the optimized deployment does not use",
                remedy="give both Compose files the same volumes",
            )
        kept = sorted(set(container.volumes.values()) & set(new.volumes.values()))
        changes.append(Change(container.service, container.image, new.image, tuple(kept)))
    return changes


def downtime(events: Sequence[Event]) -> dict[str, float]:
    """For how many seconds each service was away: from the end of its old process until the new one was healthy (or
    had started, where nothing checks it). Under ``""``: from the first end until the last was healthy."""
    ended: dict[str, float] = {}
    healthy: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.time):
        if event.action == "die":
            ended.setdefault(event.service, event.time)
        elif event.action == "health_status: healthy" or (event.action == "start" and event.service not in healthy):
            healthy[event.service] = event.time
    away = {name: max(0.0, healthy[name] - time) for name, time in ended.items() if name in healthy}
    if away:
        away[""] = max(healthy[name] for name in away) - min(ended[name] for name in away)
    return away


def _standard(run: Run) -> Compose:
    return replace(compose_of(run), files=(standard_of(run),))


def _plan(run: Run) -> list[Change]:
    containers = Containers(run.project.name).look()
    if not any(container.running for container in containers):
        raise UserError(f"nothing of {run.project.name} runs", remedy="doit up_optimized starts it")
    return changes_between(containers, _standard(run).services(), compose_of(run).services())


def _print_plan(run: Run, changes: Sequence[Change]) -> None:
    from tasks.base.output import Output, table

    drawn = table("service", "runs", "will run", "keeps")
    for change in changes:
        drawn.add_row(change.service, change.old, change.new, ", ".join(change.volumes))
    console = Output()
    console.print(drawn)
    stale = [decision for decision in run.decisions().values() if decision.stale]
    console.print("\n".join(["", *_steps(stale)]), markup=False, soft_wrap=True)


def _steps(stale: Sequence[Decision]) -> list[str]:
    what = ", ".join(f"{decision.name}{because(decision.reasons)}" for decision in stale)
    return [
        f"1. build {what or 'nothing: every image is fresh'}",
        "2. replace the containers, stores first; from here on the services are away",
        "3. wait until everything is healthy, else put back what runs now",
    ]


def _begin(run: Run) -> Journal:
    """Write down what runs, and see that it cannot go away."""
    known = _standard(run).services()
    ran = {
        container.service: Before(known[container.service].image, container.image_id)
        for container in Containers(run.project.name).look()
        if container.running and container.service in known
    }
    journal = Journal(Phase.SWITCHING, ran)
    write_journal(run.folder, journal)
    for before in journal.before.values():
        run.engine.tag(before.image_id, held_tag(before.image))
    return journal


def _switch(run: Run, journal: Journal) -> None:
    compose = compose_of(run)
    reason = ""
    events: list[Event] = []
    try:
        terms = bringup.terms(run, "migrate")
        outcome = bringup.start(compose, terms, built=images.built(run))
        events = list(outcome.events)
        if outcome.healthy:
            _finish(run, journal)
            run.events.emit(ServicesListed(rows_of(outcome)))
            print(f"migrated: {_away(events)}", file=sys.stderr)
            return
        reason = bringup.explain(outcome, compose)
    except UserError as error:
        reason = str(error)
    print(f"the optimized deployment is not healthy, putting back what ran before\n{reason}", file=sys.stderr)
    _roll_back(run, journal, events, reason)


def _roll_back(run: Run, journal: Journal, events: list[Event], reason: str) -> None:
    """Start what ran before; always raises ``UserError``, which says whether that worked."""
    write_journal(run.folder, replace(journal, phase=Phase.ROLLING_BACK))
    compose = _with_images_of(run, journal)
    services = compose.services()
    ran = {
        normalise(services[name].image): before.image_id for name, before in journal.before.items() if name in services
    }
    terms = bringup.terms(run, "rollback")
    outcome = bringup.start(compose, terms, only=sorted(journal.before), built=ran)
    events += outcome.events
    if not outcome.healthy:
        raise UserError(
            f"neither the optimized nor the standard deployment is healthy\n{bringup.explain(outcome, compose)}",
            remedy="mend it and run this again: it goes on with putting back what ran before",
        )
    _finish(run, journal, keep_tags=len(compose.files) > 1)
    first = reason.splitlines()[0] if reason else "it was not healthy"
    raise UserError(f"rolled back, the standard deployment runs again on the same volumes ({_away(events)}): {first}")


def _with_images_of(run: Run, journal: Journal) -> Compose:
    """The standard deployment with exactly the images that ran: by their own tag where their name has moved on."""
    standard = _standard(run)
    snapshot = run.engine.snapshot()
    renamed = {}
    for name, before in journal.before.items():
        local_image = snapshot.get(before.image)
        if local_image is None or local_image.id != before.image_id:
            renamed[name] = {"image": held_tag(before.image)}
    if not renamed:
        return standard
    override = run.folder / "migration-images.json"
    files.write_json(override, {"services": renamed})
    return replace(standard, files=(*standard.files, override))


def _finish(run: Run, journal: Journal, keep_tags: bool = False) -> None:
    for before in journal.before.values() if not keep_tags else ():
        if run.engine.snapshot().get(held_tag(before.image)):
            run.engine.untag(held_tag(before.image))
    Containers(run.project.name).remove_idle_networks()
    _journal_path(run.folder).unlink(missing_ok=True)


def _away(events: Sequence[Event]) -> str:
    away = downtime(events)
    if "" not in away:
        return "no service was away"
    each = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in sorted(away.items()) if name)
    return f"downtime {seconds_text(away[''])} in all, {each}"


def held_tag(image: str) -> str:
    """The tag that holds what this reference names now, whatever becomes of the reference."""
    return f"{repository(normalise(image))}:{_TAG}"


def _journal_path(folder: Path) -> Path:
    return folder / "migration.json"


def write_journal(folder: Path, journal: Journal) -> None:
    """Keep the journal in place of the last."""
    files.write_json(_journal_path(folder), asdict(journal))
