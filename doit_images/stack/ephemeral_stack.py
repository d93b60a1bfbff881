"""How does a second stack run beside the first, for tests, and leave nothing behind?

An ephemeral stack has a project name, ports and secrets of its own, so that any number of them can run on one machine.
It is removed with its data when it is over, by whatever it ends. What a killed run left is found by Compose's label on
containers, networks and volumes, and removed by the next run, once the kernel says that its owner is gone: each owner
holds a lock on a file for as long as it lives.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import re
import secrets as randomness
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from doit_images.core.base import lock, places
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose
from doit_images.stack import bringup, ending, secrets
from doit_images.stack.bringup import Terms
from doit_images.stack.containers import Containers, projects
from doit_images.stack.free_port import is_free
from doit_images.stack.health import Waited

OVERRIDE = "docker-compose.test.yml"
_MARK = "-ci-"
# Below the ports that systems hand out for outgoing connections, so that a container finds its own free again.
_PORTS = range(20_000, 28_000)
_TRIES = 5
_TAKEN = re.compile(r"port is already allocated|address already in use|ports are not available", re.I)


@dataclass(frozen=True)
class EphemeralStack:
    """A stack that runs: what Compose knows of it, and how it came up."""

    compose: Compose
    outcome: Waited


def with_override(compose: Compose) -> Compose:
    """The same project with the override of tests, where there is one."""
    override = compose.directory / OVERRIDE
    return replace(compose, files=(*compose.files, override)) if override.is_file() else compose


@contextlib.contextmanager
def running(compose: Compose, terms: Terms, built: Mapping[str, str] | None = None) -> Iterator[EphemeralStack]:
    """An ephemeral stack of what is meant of this project, for the block, healthy or not: its outcome says so, and it
    can be looked at. ``built`` is which image each name must stand for. ``UserError`` when Compose cannot start it at
    all."""
    sweep(compose.project)
    environ = {**compose.environ, **secrets.random_values(compose.directory)}
    name = f"{compose.project}{_MARK}{randomness.token_hex(4)}"
    own = replace(with_override(compose), environ=environ, project=name)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(lock.try_exclusive(_run_lock(own.project))):
            raise UserError(f"another run uses the name {own.project}", remedy="run it again")
        forget = functools.partial(_forget, own.project)
        # Also when a signal ends the process while another thread is in the block, or while this one forgets.
        atexit.register(forget)
        stack.callback(atexit.unregister, forget)
        stack.callback(forget)
        started = _start(own, stack, lambda one: bringup.start(one, terms, built))
        known = ending.told(started.compose)
        try:
            yield started
        finally:
            if why := ending.begin(started.compose, known=known):
                print(why, file=sys.stderr)


def _start(compose: Compose, stack: contextlib.ExitStack, start: Callable[[Compose], Waited]) -> EphemeralStack:
    """Start it with free ports, which ``stack`` holds; with others where somebody took one of these meanwhile."""
    reached = [name for name, service in compose.services().items() if service.replicas and service.ports]
    for left in reversed(range(_TRIES)):
        ports = {f"{variable(name)}_PORT": str(stack.enter_context(free_port())) for name in reached}
        own = replace(compose, environ={**compose.environ, **ports})
        try:
            outcome = start(own)
            if not left or not any(_TAKEN.search(verdict.words) for verdict in outcome.failed.values()):
                return EphemeralStack(own, outcome)
        except UserError as error:
            if not left or not _TAKEN.search(str(error)):
                raise
    raise AssertionError("the last attempt returns or raises")


def variable(service: str) -> str:
    """How the variables of a service begin: ``ml-worker`` has ``ML_WORKER_PORT``."""
    return re.sub(r"\W", "_", service).upper()


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that nothing listens on, and that no other ephemeral stack takes for as long as the block lasts."""
    for port in random.sample(_PORTS, 100):
        with lock.try_exclusive(_home() / "ports" / f"{port}.lock") as ours:
            if ours and is_free(port, "127.0.0.1"):
                yield port
                return
    raise UserError(f"no port between {_PORTS.start} and {_PORTS.stop} is free")


def sweep(project: str) -> None:
    """Remove the ephemeral stacks of this project whose owner is gone. Those of other machines that share the engine,
    and those that still run, are left alone."""
    for name in projects(re.escape(project) + re.escape(_MARK) + r"[0-9a-f]{8}"):
        path = _run_lock(name)
        if not path.exists():
            continue
        with lock.try_exclusive(path) as ours:
            if ours:
                print(f"removing {name}, which a killed run left behind", file=sys.stderr)
                _forget(name)


def _forget(name: str) -> None:
    """Remove an ephemeral stack and its data. By the engine, not by Compose: this also runs while the process ends."""
    Containers(name).remove()
    _run_lock(name).unlink(missing_ok=True)


def _run_lock(name: str) -> Path:
    return _home() / f"{name}.lock"


def _home() -> Path:
    """Where owners hold their locks: for a user and a machine, since a checkout may be wiped while one runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return places.of_user(Path(cache)) / "trials"
