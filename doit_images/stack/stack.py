"""How does the stack come up, with passwords of its own?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from doit_images.core.base.errors import UserError
from doit_images.core.compose import made_env
from doit_images.core.compose.stack import Compose
from doit_images.core.run import Run
from doit_images.stack import bringup, checkout, health, images, parts, secrets
from doit_images.stack.checkout import locked
from doit_images.stack.containers import Containers
from doit_images.stack.events import ServicesListed, rows_of, waiting


def make_env(run: Run) -> None:
    """Make ``.env`` where it is missing. ``UserError`` where data from an earlier ``.env`` is still there: a database
    keeps its password."""
    folder = run.files[0].parent
    missing = [name for name in secrets.needed(folder) if not run.environ.get(name)]
    if missing and not (folder / secrets.ENV).exists():
        volumes = Containers(checkout.of(run).name).belongings().volumes
        if volumes:
            raise UserError(
                f"this file is missing, and the data in {', '.join(volumes)} can only be read with its passwords",
                where=str(folder / secrets.ENV),
                remedy="bring it back, or remove the data: doit down --volumes",
            )
        if secrets.make_env(folder, run.folder):
            made_env.note(folder / secrets.ENV, run.common)
            print(f"made {folder / secrets.ENV} with random passwords, for you alone to read", file=sys.stderr)


def check_env(run: Run) -> None:
    """See that no secret is empty or the example's; ``UserError`` says which is."""
    secrets.check(run.files[0].parent, run.environ)


def up(run: Run, services: Sequence[str], *, no_deps: bool, seed_from: str) -> None:
    """The action of ``up``: see ``start``; of these services with what they need, or without that (default: all)."""
    start(run, parts.part(checkout.settled(run), services, alone=no_deps), "up", seed_from)


def start(run: Run, compose: Compose, task: str, seed_from: str = "", enough: Callable[[], bool] | None = None) -> None:
    """Start the stack for ``task``, with the data of another checkout's (``seed``) if one is named, wait for health, or
    until that is ``enough``, tell its table; ``UserError`` says which service is not healthy, and why."""
    with locked(run.engine.address, compose.project):
        kept = images.kept(run)
        if seed_from:
            from doit_images.stack import seed  # few begin with another's data

            seed.seed(run.engine, run.folder, compose, seed.found(checkout.of(run), seed_from), kept)
        checkout.pin(run.folder, compose, kept)
        outcome = bringup.start(compose, bringup.terms(run, task, enough), built=images.named(kept))
    run.events.emit(ServicesListed(rows_of(outcome)))
    if not outcome.healthy and not outcome.cut_short:
        raise UserError(bringup.explain(outcome, compose))


def restart(run: Run, services: Sequence[str], *, no_deps: bool) -> None:
    """The action of ``restart``: see ``start_again``; default: all services. ``UserError`` for one that there is
    not."""
    compose = checkout.compose_of(run)
    parts.check(services, parts.known(compose) if services else ())
    project = Containers(compose.project)
    there = {container.service for container in project.look()}
    if not there:
        raise UserError("nothing is up", remedy="doit up")
    if missing := [name for name in services if name not in there]:
        raise UserError(f"{missing[0]} is not up", remedy=f"doit up {missing[0]}")
    start_again(run, compose, services, no_deps=no_deps)


def start_again(run: Run, compose: Compose, services: Sequence[str] = (), *, no_deps: bool = False) -> None:
    """Restart the containers of these services (default: all) and, but with ``no_deps``, of those that Compose restarts
    with them; wait for their health. ``UserError`` says which is not healthy, and why."""
    with locked(run.engine.address, compose.project), waiting(run.events, live=False) as show:
        project, limits = Containers(compose.project), bringup.terms(run, "restart").limits
        done = compose.run("--progress", "plain", "restart", *(["--no-deps"] if no_deps else []), *services)
        done.checked("docker compose restart")
        names = services or sorted({container.service for container in project.look()})
        outcome = health.wait(project, dict.fromkeys(names, 1), limits, working=lambda: False, show=show)
    if not outcome.healthy:
        raise UserError(bringup.explain(outcome, compose))
