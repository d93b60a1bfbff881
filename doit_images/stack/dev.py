"""How does an edit reach the running service?

    a source that `develop.watch` syncs ──> is mounted from the working tree; its service restarts (`sync+restart`) or
                                              runs a command (`sync+exec`)
    anything else that an image is made of ──> exactly the images concerned are built, by the plan, and their containers
                                              recreated
    the Compose file or .env ──> Compose recreates what changed

Compose's own `watch` is not used: up to 2.26 it copies files into containers, which a read-only filesystem refuses,
and it rebuilds without the plan. The rules are the same: each service's `develop.watch`.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.again import doit
from doit_images.core.base.errors import UserError
from doit_images.core.base.files import write_json
from doit_images.core.compose.stack import Command, Compose, Service, Sync
from doit_images.core.run import Run
from doit_images.stack import checkout, parts, watch
from doit_images.stack.containers import Containers
from doit_images.stack.edits import Stats, edited, moments, stats_of
from doit_images.stack.logs import Follower
from doit_images.stack.secrets import ENV
from doit_images.stack.stack import start, start_again

_MOUNTED = ("sync", "sync+restart", "sync+exec")
_RESTARTED = ("sync+restart", "restart")


@dataclass(frozen=True)
class Reaction:
    """What edits call for: services to restart, images to build, commands to run in which services' containers, and
    whether the project itself is another."""

    restart: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    project: bool = False
    run: tuple[tuple[str, Command], ...] = ()


@dataclass(frozen=True)
class _Stack:
    """What is followed: the run, its project with the sources mounted, and the logs that are shown."""

    run: Run
    compose: Compose
    logs: Follower


def dev(run: Run, services: Sequence[str], *, no_deps: bool) -> None:
    """Start these services and what they need, or them alone (default: all), with their sources mounted, and react to
    edits until Ctrl-C; they go on running then."""
    compose = parts.part(checkout.settled(run), services, alone=no_deps)
    compose = mounted(compose, run.folder / "dev" / f"{compose.project}.json")
    # Looked at before the start: what is edited meanwhile is an edit, too.
    seen = _Seen.now(run, compose)
    before = stats_of(seen.folders())
    start(run, compose, "dev")
    said = run.parts.names.in_text("no longer following; the stack still runs (`doit down` ends it)")
    atexit.register(print, said, file=sys.stderr)
    with Follower(compose, followed(seen.services, compose.only)) as logs:
        _follow(_Stack(run, compose, logs), seen, before)


def followed(services: Mapping[str, Service], only: tuple[str, ...]) -> tuple[str, ...]:
    """Whose logs are shown: of the services that are meant (none: all), without those that want no attention
    (``attach: false``)."""
    wanted = tuple(name for name, service in services.items() if service.attach)
    return only if len(wanted) == len(services) else wanted


def mounted(compose: Compose, override: Path) -> Compose:
    """The project with what ``develop.watch`` syncs mounted from the working tree, read-only, by an override file."""
    mounts = {
        name: {"volumes": [_mount(rule) for rule in service.watch if rule.action in _MOUNTED and rule.path.exists()]}
        for name, service in compose.services().items()
    }
    write_json(override, {"services": {name: mount for name, mount in mounts.items() if mount["volumes"]}})
    return replace(compose, files=(*compose.files, override))


def reaction(
    changed: Iterable[Path],
    services: Mapping[str, Service],
    inputs: Mapping[str, frozenset[Path]],
    project: Iterable[Path],
    hidden: Mapping[str, watch.Hidden] | None = None,
) -> Reaction:
    """What the edits of these paths call for. ``inputs`` are the files that each image is made of, before or after
    the edits; ``project`` the files that the project itself is read from; ``hidden`` what the ignore file of each
    service's build context hides. Pure, but that it looks which rules are about one file alone.

    A path that a service syncs needs no build of that service's image, be it ignored or not, however many others it
    belongs to.
    """
    restart: set[str] = set()
    build: set[str] = set()
    run: dict[tuple[str, Command], None] = {}
    own = set(project)
    reread = False
    for path in changed:
        reread = reread or path in own
        for name, service in services.items():
            rules = [rule for rule in service.watch if watch.covers(rule, path, (hidden or {}).get(name))]
            restart |= {name for rule in rules if _restarts(rule)}
            run |= {(name, rule.command): None for rule in rules if rule.action == "sync+exec" and rule.command}
            build |= {name for rule in rules if rule.action == "rebuild" and service.builds}
        for name, files in inputs.items():
            synced = services[name].watch if name in services else ()
            if path in files and not any(rule.action in _MOUNTED and watch.inside(rule, path) for rule in synced):
                build.add(name)
    return Reaction(tuple(sorted(restart - build)), tuple(sorted(build)), reread, tuple(run))


def _restarts(rule: Sync) -> bool:
    """A file that is mounted alone stays the one that was mounted when an editor puts another in its place."""
    return rule.action in _RESTARTED or (rule.action in _MOUNTED and rule.path.is_file())


def _mount(rule: Sync) -> dict[str, object]:
    source, target = (text.replace("$", "$$") for text in (str(rule.path), rule.target))
    return {"type": "bind", "source": source, "target": target, "read_only": True}


def _follow(stack: _Stack, seen: _Seen, before: Stats) -> None:
    announced = False
    pending: set[Path] = set()
    while not commands.stopping():
        folders = seen.folders()
        for _ in moments(folders):
            if not announced:
                _say("following edits; Ctrl-C ends that and leaves the stack running")
                announced = True
            now = stats_of(folders)
            changed, before = edited(before, now), now
            if not changed:
                continue
            # What could not be done, say for a Dockerfile that is half written, is tried again with the next edit.
            pending |= changed
            try:
                after = _Seen.now(stack.run.anew(), stack.compose)
                both = {name: seen.inputs.get(name, frozenset()) | files for name, files in after.inputs.items()}
                seen = after
                what = reaction(pending, after.services, both, after.project, after.hidden)
                _react(stack, what, after, partial(_edited_again, before, folders, after))
                pending = set()
            except UserError as error:
                print(str(error), file=sys.stderr)
            if seen.folders() != folders:
                break


@dataclass(frozen=True)
class _Seen:
    """What there is to follow: services, the files of each image, who builds on whom, the project's own files, what
    the ignore files hide."""

    services: Mapping[str, Service]
    inputs: Mapping[str, frozenset[Path]]
    parents: Mapping[str, tuple[str, ...]]
    project: tuple[Path, ...]
    hidden: Mapping[str, watch.Hidden]

    @classmethod
    def now(cls, run: Run, compose: Compose) -> _Seen:
        """Look at the working tree as it is now."""
        inputs = run.planner.declared()
        root = run.project.directory
        services = compose.services()
        if compose.only:
            needs = {name: image.needs for name, image in inputs.items()}
            needed = parts.with_parents(parts.images_of(run.project.images, services), needs)
            inputs = {name: image for name, image in inputs.items() if name in needed}
        watch.check(services)
        return cls(
            services,
            {name: frozenset(root / path for path in image.paths()) for name, image in inputs.items()},
            {name: tuple(image.parents.values()) for name, image in inputs.items()},
            (*run.files, root / ENV),
            watch.hidden_from_build(services),
        )

    def folders(self) -> frozenset[Path]:
        """The folders in which something may change that matters."""
        folders = {path.parent for files in self.inputs.values() for path in files}
        folders |= {path.parent for path in self.project}
        for service in self.services.values():
            for rule in service.watch:
                folders.add(rule.path if rule.path.is_dir() else rule.path.parent)
                folders |= {path for path in rule.path.rglob("*") if path.is_dir() and path.name != "__pycache__"}
        return frozenset(folder for folder in folders if folder.is_dir())

    def concerned(self, images: Iterable[str]) -> list[str]:
        """The services that run one of these images, or one that is built on it."""
        names = set(images)
        while grown := {name for name, over in self.parents.items() if names & set(over)} - names:
            names |= grown
        return sorted(name for name in names if name in self.services and self.services[name].replicas)


def _edited_again(before: Stats, folders: Iterable[Path], seen: _Seen) -> bool:
    """Whether an edit since then calls for another reaction."""
    changed = edited(before, stats_of(folders))
    return reaction(changed, seen.services, seen.inputs, seen.project, seen.hidden) != Reaction()


def _react(stack: _Stack, what: Reaction, seen: _Seen, edited_again: Callable[[], bool]) -> None:
    """Do what edits call for. Another edit ends the wait for the health of what was started."""
    began = time.monotonic()
    if what.build or what.project:
        images = seen.concerned(what.build) or list(what.build)
        building = f"; building what {', '.join(images)} needs" * bool(images)
        _say(f"{', '.join(what.build) or 'the project'} changed{building}")
        if images and doit(["run", *(stack.run.parts.names(f"build:{name}") for name in images)]):
            raise UserError("the build failed; the stack keeps running as it is")
        with stack.logs.paused():
            start(stack.run, stack.compose, "dev", enough=edited_again)
        _say(f"done in {time.monotonic() - began:.1f} s")
    restart = [name for name in what.restart if name in seen.services and seen.services[name].replicas]
    if restart:
        _say(f"restarting {', '.join(restart)}")
        with stack.logs.paused():
            start_again(stack.run, stack.compose, restart, no_deps=True)  # not what depends on them
        _say(f"{', '.join(restart)} runs the edited sources after {time.monotonic() - began:.1f} s")
    for name, command in what.run:
        _run(stack.run.environ, stack.compose, name, command)


def _run(environ: Mapping[str, str], compose: Compose, name: str, command: Command) -> None:
    running = (container for container in Containers(compose.project).look() if container.running)
    for container in (container for container in running if container.service == name):
        _say(f"running {command.words[0]} in {container.name}")
        for line in watch.run(name, container.id, command, environ):
            print(f"{name} | {line}", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
