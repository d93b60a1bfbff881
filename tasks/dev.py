"""How does an edit reach the running service?

    a source that `develop.watch` syncs ──> is mounted from the working tree; its service restarts (`sync+restart`)
    anything else that an image is made of ──> exactly the images concerned are built, by the plan, and their containers
                                              recreated
    the Compose file or .env ──> Compose recreates what changed

Compose's own `watch` is not used: up to 2.26 it copies files into containers, which a read-only filesystem refuses,
and it rebuilds without the plan. The rules are the same: each service's `develop.watch`.
"""

from __future__ import annotations

import atexit
import contextlib
import fnmatch
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks import bringup, health, health_view, processes
from tasks.ci import doit
from tasks.compose import Compose, Service, Sync, last_words, logs_argv, restart_argv
from tasks.containers import Containers
from tasks.errors import Trouble
from tasks.project import write_json
from tasks.secrets import ENV
from tasks.stack import PLAIN, Task, act, compose_of, locked, log_of
from tasks.workspace import Workspace

_MOUNTED = ("sync", "sync+restart", "sync+exec")
_RESTARTED = ("sync+restart", "sync+exec", "restart")
# How long edits are gathered, so that a save of many files is one reaction.
_GATHER_MILLISECONDS = 300
_LOOK_MILLISECONDS = 500


def task_dev_optimized() -> Task:
    """Bring the stack up and follow it: edits of sources and dependencies reach the running services"""
    return {"actions": [(act, [dev])], "task_dep": ["env_file", "build_optimized"], **PLAIN}


@dataclass(frozen=True)
class Reaction:
    """What edits call for: services to restart, images to build, and whether the project itself is another."""

    restart: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    project: bool = False


def dev(workspace: Workspace) -> None:
    """Start the stack with its sources mounted and react to edits until Ctrl-C; the stack goes on running then."""
    compose = mounted(compose_of(workspace), workspace.folder / "dev" / f"{workspace.project.name}.json")
    _start(workspace, compose)
    atexit.register(print, "no longer following; the stack still runs (doit down_optimized ends it)", file=sys.stderr)
    print("following edits; Ctrl-C ends that and leaves the stack running", file=sys.stderr)
    with _logs(compose):
        _follow(workspace, compose)


def mounted(compose: Compose, override: Path) -> Compose:
    """The project with what ``develop.watch`` syncs mounted from the working tree, read-only, by an override file."""
    mounts = {
        name: {"volumes": [_mount(rule) for rule in service.watch if rule.action in _MOUNTED and rule.path.exists()]}
        for name, service in compose.services().items()
    }
    write_json(override, {"services": {name: one for name, one in mounts.items() if one["volumes"]}})
    return replace(compose, files=(*compose.files, override))


def reaction(
    changed: Iterable[Path],
    services: Mapping[str, Service],
    inputs: Mapping[str, frozenset[Path]],
    project: Iterable[Path],
) -> Reaction:
    """What the edits of these paths call for. ``inputs`` are the files that each image is made of, before or after
    the edits; ``project`` the files that the project itself is read from. Pure.

    A path that a service syncs needs no build of that service's image, however many others it belongs to.
    """
    restart: set[str] = set()
    build: set[str] = set()
    own = set(project)
    reread = False
    for path in changed:
        reread = reread or path in own
        for name, service in services.items():
            rules = [rule for rule in service.watch if _covers(rule, path)]
            restart |= {name for rule in rules if rule.action in _RESTARTED}
            build |= {name for rule in rules if rule.action == "rebuild" and service.builds}
        for name, files in inputs.items():
            rules = [rule for rule in services[name].watch if _covers(rule, path)] if name in services else []
            if path in files and not any(rule.action in _MOUNTED for rule in rules):
                build.add(name)
    return Reaction(tuple(sorted(restart - build)), tuple(sorted(build)), reread)


def _covers(rule: Sync, path: Path) -> bool:
    if path != rule.path and rule.path not in path.parents:
        return False
    inside = path.relative_to(rule.path).as_posix()
    return not any(fnmatch.fnmatch(inside, pattern) or fnmatch.fnmatch(path.name, pattern) for pattern in rule.ignore)


def _mount(rule: Sync) -> dict[str, Any]:
    return {"type": "bind", "source": str(rule.path), "target": rule.target, "read_only": True}


def _start(workspace: Workspace, compose: Compose) -> None:
    with locked(workspace):
        outcome = bringup.start(compose, bringup.limits(workspace.settings), log_of(workspace, "dev"))
    health_view.print_table(health_view.rows(list(outcome.verdicts), outcome.containers))
    if not outcome.well:
        raise Trouble(bringup.explain(outcome, compose))


def _follow(workspace: Workspace, compose: Compose) -> None:
    seen = _Seen.now(workspace, compose)
    while not processes.stopping():
        folders = seen.folders()
        for changed in _changes(folders):
            # A broken Dockerfile or Compose file is said, and followed until it is mended.
            with _said():
                after = _Seen.now(Workspace(workspace.files, workspace.environ), compose)
                both = {name: seen.inputs.get(name, frozenset()) | files for name, files in after.inputs.items()}
                _react(workspace, compose, reaction(changed, after.services, both, after.project), after)
                seen = after
            if processes.stopping() or seen.folders() != folders:
                break


@dataclass(frozen=True)
class _Seen:
    """What there is to follow: services, the files of each image, who builds on whom, the project's own files."""

    services: Mapping[str, Service]
    inputs: Mapping[str, frozenset[Path]]
    parents: Mapping[str, tuple[str, ...]]
    project: tuple[Path, ...]

    @classmethod
    def now(cls, workspace: Workspace, compose: Compose) -> _Seen:
        """Look at the working tree as it is now."""
        surveyed = workspace.declared()
        root = workspace.project.directory
        return cls(
            compose.services(),
            {name: frozenset(root / path for path in one.inputs()) for name, one in surveyed.items()},
            {name: tuple(one.parents.values()) for name, one in surveyed.items()},
            (*workspace.files, root / ENV),
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
        found = set(images)
        while grown := {name for name, over in self.parents.items() if found & set(over)} - found:
            found |= grown
        return sorted(name for name in found if name in self.services and self.services[name].replicas)


def _changes(folders: Iterable[Path]) -> Iterator[set[Path]]:
    from watchfiles import watch

    batches = watch(
        *folders,
        recursive=False,
        debounce=_GATHER_MILLISECONDS,
        step=50,
        rust_timeout=_LOOK_MILLISECONDS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for batch in batches:
        if processes.stopping():
            return
        if batch:
            yield {Path(path) for _, path in batch}


def _react(workspace: Workspace, compose: Compose, what: Reaction, seen: _Seen) -> None:
    began = time.monotonic()
    if what.build or what.project:
        images = seen.concerned(what.build) or list(what.build)
        _say(
            f"{', '.join(what.build) or 'the project'} changed",
            f"building what {', '.join(images)} needs" * bool(images),
        )
        if images and doit(["run", *(f"build_optimized:{name}" for name in images)]):
            raise Trouble("not built; the stack runs on as it is")
        _start(workspace, compose)
        _say(f"done in {time.monotonic() - began:.1f} s")
    restart = [name for name in what.restart if name in seen.services and seen.services[name].replicas]
    if restart:
        _say(f"restarting {', '.join(restart)}")
        _restart(workspace, compose, restart)
        _say(f"{', '.join(restart)} runs the edited sources after {time.monotonic() - began:.1f} s")


def _restart(workspace: Workspace, compose: Compose, services: Sequence[str]) -> None:
    with locked(workspace), health_view.HealthView(live=False) as view:
        done = compose.run(*restart_argv(compose, services)[len(compose.argv()) :])
        if done.returncode:
            raise Trouble(f"docker compose restart: {last_words(done.stderr)}")
        project, limits = Containers(compose.project), bringup.limits(workspace.settings)
        outcome = health.wait(project, dict.fromkeys(services, 1), limits, working=lambda: False, show=view.show)
    if not outcome.well:
        raise Trouble(bringup.explain(outcome, compose))


@contextlib.contextmanager
def _logs(compose: Compose) -> Iterator[None]:
    """What the services write, passed on to standard output for the block."""
    color = sys.stdout.isatty()
    argv = logs_argv(compose, follow=True, tail="0", color=color)
    ended = threading.Event()

    def pass_on() -> None:
        # It ends when no container is left; the next stack has new ones.
        while not ended.is_set() and not processes.stopping():
            with (
                contextlib.suppress(processes.Stopped),
                processes.start(argv, cwd=compose.directory, env=compose.env) as one,
            ):
                _lines(one, color)
            ended.wait(1)

    threading.Thread(target=pass_on, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _lines(process: subprocess.Popen[bytes], color: bool) -> None:
    for line in process.stdout or ():
        sys.stdout.buffer.write(line if color else line.replace(b"\x1b[2K", b""))
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except Trouble as trouble:
        print(str(trouble), file=sys.stderr)


def _say(*words: str) -> None:
    print("; ".join(word for word in words if word), file=sys.stderr, flush=True)
