"""Is the stack up? Start it, look at it, read its logs, take it down."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from doit_images.core.base import commands, lock
from doit_images.core.base.command_line import last_words
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.compose import made_env
from doit_images.core.compose.stack import Compose, down_argv
from doit_images.core.run import Run
from doit_images.stack import bringup, checkout, images, journal, secrets
from doit_images.stack.containers import Belongings, Containers
from doit_images.stack.events import ServicesListed
from doit_images.stack.status import rows, rows_of


def locked(run: Run, name: str = "") -> contextlib.AbstractContextManager[None]:
    """The right to change the containers of this stack (default: this checkout's); another run that does so, of
    whatever checkout, is waited for."""
    name = name or checkout.of(run).name
    path = lock.of_engine(run.engine.address, "stack", name)
    return lock.exclusive(path, f"waiting for another run that changes {name}")


def make_env(run: Run) -> None:
    """Make ``.env`` where it is missing. ``UserError`` where data from an earlier ``.env`` is still there: a database
    keeps its password."""
    folder = run.files[0].parent
    missing = [name for name in secrets.wanted(folder) if not run.environ.get(name)]
    if missing and not (folder / secrets.ENV).exists():
        volumes = Containers(checkout.of(run).name).belongings().volumes
        if volumes:
            raise UserError(
                f"it is gone, and the data in {', '.join(volumes)} can only be read with its passwords",
                where=str(folder / secrets.ENV),
                remedy="bring it back, or remove the data: doit down --volumes",
            )
        if secrets.make_env(folder, run.folder):
            made_env.note(folder / secrets.ENV, run.common)
            print(f"made {folder / secrets.ENV} with random passwords, for you alone to read", file=sys.stderr)


def check_env(run: Run) -> None:
    """See that no secret is empty or the example's; ``UserError`` says which is."""
    secrets.check(run.files[0].parent, run.environ)


def up(run: Run, seed_from: str = "") -> None:
    """The action of ``up``: see ``start``."""
    start(run, checkout.settled(run), "up", seed_from)


def start(run: Run, compose: Compose, task: str, seed_from: str = "", enough: Callable[[], bool] | None = None) -> None:
    """Start the stack for ``task``, with the data of another checkout's (``seed``) if one is named, wait for health, or
    until that is ``enough``, tell its table; ``UserError`` says which service is not healthy, and why."""
    with locked(run, compose.project):
        kept = images.kept(run)
        if seed_from:
            from doit_images.stack import seed  # few begin with another's data

            seed.seed(run, compose, seed_from, kept)
        checkout.pin(run, compose, kept)
        outcome = bringup.start(compose, bringup.terms(run, task, enough), built=images.named(kept))
        if outcome.healthy:
            journal.close_left(run, "this stack is healthy")
    run.events.emit(ServicesListed(rows_of(outcome)))
    if not outcome.healthy and not outcome.cut_short:
        raise UserError(bringup.explain(outcome, compose))


def down(run: Run, volumes: bool, yes: bool) -> None:
    """Remove containers and networks; with ``volumes`` also the data, once the user has agreed."""
    choice = checkout.of(run)
    project = Containers(choice.name)
    with locked(run, choice.name):
        there = project.belongings()
        if not there or (not volumes and not there.containers and not there.networks):
            journal.close_left(run, "nothing of it is there")
            print(f"nothing of {choice.name} is up{_kept(there)}", file=sys.stderr)
            return
        if volumes and there.volumes:
            print(f"this removes for ever the data in {', '.join(there.volumes)}", file=sys.stderr)
            if not yes:
                confirm()
        done = compose_run(down_argv(choice.name, volumes=volumes), bringup.log_of(run, "down"))
        if done:
            raise UserError(f"docker compose down: {done}", remedy=f"its log is {bringup.log_of(run, 'down')}")
        journal.close_left(run, "its containers are gone")
        left = project.belongings()
        if not left:
            checkout.forget(choice)
    gone = [f"{len(there.containers)} containers", f"{len(there.networks)} networks"]
    gone += [f"{len(there.volumes) - len(left.volumes)} volumes"] if volumes else []
    print(f"removed {', '.join(gone)}{_kept(left)}", file=sys.stderr)


def _kept(there: Belongings) -> str:
    return f"; data is kept in {', '.join(there.volumes)}" if there.volumes else ""


def compose_run(argv: Sequence[str], log: Path) -> str:
    """Run a command of Compose's that needs no files to its end, its output going to ``log``; '' or why it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = commands.run(argv, cwd=Path("/"), stdout=output, stderr=output)
    return last_words(log.read_text(errors="replace")) if done.status else ""


def ps(run: Run, as_json: bool) -> None:
    """Print the services of the stack and their containers, as a table or as JSON."""
    compose = checkout.compose_of(run)
    services = [name for name, service in compose.services().items() if service.replicas]
    listed = rows(services, Containers(compose.project).look())
    if as_json:
        print(json.dumps(listed, indent=2))
    else:
        run.events.emit(ServicesListed(listed))
