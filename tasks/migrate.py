"""From a running standard deployment to the optimized one, with a way back.

    look ── plan shown, agreed ── build ── hold what runs ── stop what writes, save ── stores switched, compared
        ── all switched ── healthy? ──> done
                               └──> roll back to the very images that ran ──> undone

Both deployments have the same project name and the same volumes, so the switch is Compose's own: it replaces the
containers one by one. Nothing is stopped before everything is built. Each step can be done twice and ends with the
journal (``tasks.journal``) in its next phase, so a run that is killed anywhere is gone on with, or undone.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from doit_images.core.base import commands, files
from doit_images.core.base.again import doit
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import because, seconds_text
from doit_images.core.base.masking import masked
from doit_images.core.compose.stack import Compose, Service
from doit_images.core.engine.client import Snapshot, normalise
from doit_images.core.planner import Planner
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from doit_images.stack import backup, bringup, checkout, images, stores
from doit_images.stack.checkout import compose_of, locked
from doit_images.stack.containers import Container, Containers, Event
from doit_images.stack.events import ServicesListed, rows_of
from doit_images.stack.health import Health, Moment, Waited, judge
from doit_images.stack.stack import check_env, make_env
from tasks import compared, journal
from tasks.journal import Before, Journal, Phase, held_tag
from tasks.standard import standard_of

_LAST_EVENTS_SECONDS = 0.3
_SHOWN = 3  # differences


@dataclass(frozen=True)
class Replacement:
    """One line of the plan: a service, what runs, what will, and the volumes that both use."""

    service: str
    old: str
    new: str
    volumes: tuple[str, ...]


def migrate(run: Run, *, dry_run: bool, undo: bool, yes: bool) -> None:
    """Migrate, or go on with a migration that was interrupted, or ``undo`` that one.

    ``UserError`` when there is nothing to migrate or to undo, when data would be left behind, and when the new stack
    did not become healthy: the old one is back then."""
    own = checkout.of(run)
    if own.beside:
        raise UserError(
            f"the stack of this checkout is {own.name}, and a migration is about that called {own.project}",
            remedy="run it in the checkout that this one is of, or set STACK_NAME",
        )
    with locked(own.engine, own.name):
        left = journal.read(journal.path_of(run))
        if left and dry_run:
            print(f"a migration was interrupted while {left.phase}; without --dry-run this goes on", file=sys.stderr)
        elif left and left.phase in (Phase.DONE, Phase.UNDONE):
            _go_on(run, left)
        elif left:
            _take_up(run, left, undo=undo, yes=yes)
        elif undo:
            standard = standard_of(run.files).name
            raise UserError(
                "no migration was interrupted, so there is none to undo",
                remedy=f"COMPOSE_FILE={standard} doit up_optimized brings up the standard deployment",
            )
        else:
            _begin(run, dry_run=dry_run, yes=yes)


def _begin(run: Run, *, dry_run: bool, yes: bool) -> None:
    run.settings.need_engine()
    changes = _plan(run)
    if not changes:
        print(f"{run.project.name} is the optimized deployment already", file=sys.stderr)
        return
    _print_plan(run.planner, compose_of(run), changes)
    if dry_run:
        return
    if not yes:
        confirm()
    make_env(run)
    check_env(run)
    if doit(["run", "build_optimized"]):
        raise UserError("an image could not be built; nothing was stopped")
    ran = _ran(_standard(run).services(), Containers(run.project.name).look())
    _go_on(run, journal.begun(journal.path_of(run), ran))


def _take_up(run: Run, left: Journal, *, undo: bool, yes: bool) -> None:
    """Go on with what an interrupted migration left. It may have been left long ago: what runs counts, and whoever runs
    this is asked before anything is replaced."""
    path = journal.path_of(run)
    there = found(left, Containers(run.project.name).look(), compose_of(run).services())
    if there == Found.UNTOUCHED and left.phase != Phase.ROLLING_BACK:
        print("a migration was interrupted before anything was replaced", file=sys.stderr)
        journal.close(run, left)
        if not undo:
            _begin(run, dry_run=False, yes=yes)
        return
    if there == Found.SWITCHED and not undo:
        print("a migration was interrupted, and all that it was to start is healthy", file=sys.stderr)
        _go_on(run, journal.entered(path, left, Phase.DONE))
        return
    goal = "putting back what ran before" if undo or left.phase == Phase.ROLLING_BACK else "going on with it"
    print(f"a migration was interrupted while {left.phase}: {goal}", file=sys.stderr)
    if not yes:
        confirm()
    _go_on(run, journal.entered(path, left, Phase.ROLLING_BACK, "it was to be undone") if undo else left)


class Found(StrEnum):
    """What an interrupted migration left."""

    UNTOUCHED = "everything that ran before runs"
    SWITCHED = "everything runs in the new way, and is healthy"
    HALF_WAY = "neither"


def found(left: Journal, containers: Sequence[Container], optimized: Mapping[str, Service]) -> Found:
    """What runs of the services that were to be replaced, by the references that their containers were made from."""
    running = {container.service: normalise(container.image) for container in containers if container.running}
    before = {name: {normalise(one.image), normalise(held_tag(one.image))} for name, one in left.before.items()}
    if all(running.get(name) in refs for name, refs in before.items()):
        return Found.UNTOUCHED
    expected = {name: service.replicas for name, service in optimized.items() if service.replicas}
    there = {container.id: container for container in containers}
    now = Moment(there, service_seconds=0, since=0, now=0, coming=False)
    ready = all(verdict.state == Health.READY for verdict in judge(expected, containers, now).values())
    new = all(running.get(name) == normalise(optimized[name].image) for name in before if name in optimized)
    return Found.SWITCHED if ready and new else Found.HALF_WAY


def changes_between(
    containers: Sequence[Container], standard: Mapping[str, Service], optimized: Mapping[str, Service]
) -> list[Replacement]:
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
        changes.append(Replacement(container.service, container.image, new.image, tuple(kept)))
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
    return replace(compose_of(run), files=(standard_of(run.files),))


def _plan(run: Run) -> list[Replacement]:
    containers = Containers(run.project.name).look()
    if not any(container.running for container in containers):
        raise UserError(f"nothing of {run.project.name} runs", remedy="doit up_optimized starts it")
    return changes_between(containers, _standard(run).services(), compose_of(run).services())


def _print_plan(planner: Planner, compose: Compose, changes: Sequence[Replacement]) -> None:
    from doit_images.core.base.output import Output, table

    drawn = table("service", "runs", "will run", "keeps")
    for change in changes:
        drawn.add_row(change.service, change.old, change.new, ", ".join(change.volumes))
    console = Output()
    console.print(drawn)
    stale = [decision for decision in planner.decisions().values() if decision.stale]
    kept = [store.service for store in stores.declared(compose)]
    console.print("\n".join(["", *_steps(stale, kept)]), markup=False, soft_wrap=True)


def _steps(stale: Sequence[Decision], kept: Sequence[str]) -> list[str]:
    saving = f"stop what writes to {', '.join(kept)}, and save that" if kept else "save nothing: there is no x-backup"
    what = ", ".join(f"{decision.name}{because(decision.reasons)}" for decision in stale)
    return [
        f"1. build {what or 'nothing: every image is fresh'}",
        f"2. {saving}",
        "3. replace the containers, stores first; from here on the services are away",
        "4. wait until everything is healthy, else put back what runs now",
    ]


def _ran(known: Mapping[str, Service], containers: Sequence[Container]) -> dict[str, Before]:
    return {
        container.service: Before(known[container.service].image, container.image_id)
        for container in containers
        if container.running and container.service in known
    }


@dataclass
class _Way:
    """A migration on its way: what has happened to the containers, and how the last wait for their health ended."""

    run: Run
    left: Journal
    happens: queue.Queue[Event]
    outcome: Waited | None = None
    happened: list[Event] = field(default_factory=list)

    def away(self) -> str:
        """For how long services were away, in words."""
        with contextlib.suppress(queue.Empty):
            while True:  # the last of them may just be on its way
                self.happened.append(self.happens.get(timeout=_LAST_EVENTS_SECONDS))
        away = downtime(self.happened)
        if "" not in away:
            return "no service was away"
        each = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in sorted(away.items()) if name)
        return f"downtime {seconds_text(away[''])} in all, {each}"


def _go_on(run: Run, left: Journal) -> None:
    """Do step after step, from the phase that was reached. What goes wrong from the moment in which something was
    stopped, whatever it is, leads back; what goes wrong when all are healthy does not."""
    with Containers(run.project.name).events() as happens:
        way, path = _Way(run, left, happens), journal.path_of(run)
        while (phase := way.left.phase) in _STEPS:
            try:
                to = _STEPS[phase](way)
                if to is None:
                    return
                way.left = journal.entered(path, way.left, to)
            except (commands.Stopped, SystemExit):
                print(f"interrupted while {phase}: run this again to go on, --undo goes back", file=sys.stderr)
                raise
            except Exception as error:
                if phase not in journal.FORWARD:
                    raise
                reason = _told(error, run.environ)
                told = "the optimized deployment is not healthy, putting back what ran before"
                print(f"{told}\n{reason}", file=sys.stderr)
                way.left = journal.entered(path, way.left, Phase.ROLLING_BACK, reason)


def _told(error: Exception, environ: Mapping[str, str]) -> str:
    return str(error) if isinstance(error, UserError) else masked(f"{type(error).__name__}: {error}", environ)


def _prepare(way: _Way) -> Phase:
    journal.hold(way.run.engine, way.left)
    return Phase.SAVING


def _save(way: _Way) -> Phase:
    """Save what the stores hold, while nobody writes to it, so that what comes after can be compared."""
    compose = compose_of(way.run)
    which = [store for store in stores.declared(compose) if store.service in way.left.before]
    if which:
        backup.stop(compose, [store.service for store in which])
        archive = backup.save(way.run, compose, which)
        compared.keep(archive.folder, {store.service: compared.held(compose, store) for store in which})
        way.left = replace(way.left, archive=str(archive.folder))
        print(f"saved {', '.join(archive.stores)} in {archive.folder}", file=sys.stderr)
    return Phase.SWITCHING


def _switch(way: _Way) -> Phase:
    """Replace the stores alone, and compare what they hold with what was saved; ``UserError`` when it differs."""
    if not way.left.archive:
        return Phase.STARTING
    compose, archive = compose_of(way.run), backup.read(Path(way.left.archive))
    _start(way, compose, sorted(archive.stores))
    before = compared.kept(archive.folder)
    count = parts = 0
    for store in stores.declared(compose):
        if store.service in before:
            there = compared.held(compose, store)
            if differs := compared.differences(before[store.service], there, time.time()):
                raise UserError(f"the data of {store.service} is not what it was: {'; '.join(differs[:_SHOWN])}")
            count, parts = count + sum(part.count for part in there), parts + len(there)
    names = " and ".join(sorted(archive.stores))
    print(f"{names} hold what they held: {count:,} entries in {parts:,} parts, by count and checksum", file=sys.stderr)
    return Phase.STARTING


def _start_all(way: _Way) -> Phase:
    way.outcome = _start(way, compose_of(way.run))
    return Phase.DONE


def _start(way: _Way, compose: Compose, only: Sequence[str] = ()) -> Waited:
    """Replace what runs by what was built; ``UserError`` says why that is not healthy."""
    compose = replace(compose, only=tuple(only))
    outcome = bringup.start(compose, bringup.terms(way.run, "migrate"), images.built(way.run))
    if not outcome.healthy:
        raise UserError(bringup.explain(outcome, compose))
    return outcome


def _end(way: _Way) -> None:
    if way.outcome:
        way.run.events.emit(ServicesListed(rows_of(way.outcome)))
    print(f"migrated: {way.away()}", file=sys.stderr)
    try:
        journal.close(way.run, way.left)
    except Exception as error:
        raise UserError(
            f"it is migrated and healthy, but what held the way back is still there: {_told(error, way.run.environ)}",
            remedy="run this again, to remove it",
        ) from error


def _roll_back(way: _Way) -> Phase:
    """Start what ran before; ``UserError`` when that is not healthy either."""
    run, left = way.run, way.left
    compose = _with_images_of(left, _standard(run), run.engine.snapshot(), run.folder)
    services = compose.services()
    ran = {normalise(services[name].image): before.image_id for name, before in left.before.items() if name in services}
    compose = replace(compose, only=tuple(sorted(left.before)))
    outcome = bringup.start(compose, bringup.terms(run, "rollback"), ran)
    if not outcome.healthy:
        raise UserError(
            f"neither the optimized nor the standard deployment is healthy\n{bringup.explain(outcome, compose)}",
            remedy="mend it and run this again: it goes on with putting back what ran before",
        )
    return Phase.UNDONE


def _tell_undone(way: _Way) -> None:
    """What ran before runs; always raises ``UserError``, which says so."""
    journal.close(way.run, way.left)
    reason = (way.left.reason or "it was not healthy").splitlines()[0]
    raise UserError(
        f"rolled back, the standard deployment runs again on the same volumes ({way.away()}): {reason}",
        remedy=f"what they held before is in {way.left.archive}" if way.left.archive else "",
    )


def _with_images_of(left: Journal, standard: Compose, snapshot: Snapshot, folder: Path) -> Compose:
    """The standard deployment with exactly the images that ran: by their own tag where their name has moved on."""
    renamed = {}
    for name, before in left.before.items():
        local_image = snapshot.get(before.image)
        if local_image is None or local_image.id != before.image_id:
            renamed[name] = {"image": held_tag(before.image)}
    if not renamed:
        return standard
    override = folder / "migration-images.json"
    files.write_json(override, {"services": renamed})
    return replace(standard, files=(*standard.files, override))


_STEPS: Mapping[Phase, Callable[[_Way], Phase | None]] = {
    Phase.PREPARING: _prepare,
    Phase.SAVING: _save,
    Phase.SWITCHING: _switch,
    Phase.STARTING: _start_all,
    Phase.DONE: _end,
    Phase.ROLLING_BACK: _roll_back,
    Phase.UNDONE: _tell_undone,
}
