"""How is a command run in a service, in a container of its own, or by Compose itself?

Its input and output are ours, with a terminal where we have one, and its status becomes that of the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace

from doit_images.core.base import commands, files
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import CommandEnded, Events
from doit_images.core.compose.stack import Compose, Service
from doit_images.core.engine.client import normalise
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.run import Run
from doit_images.stack import bringup, checkout, images, one_container, parts
from doit_images.stack.checkout import locked


def execute(run: Run, words: Sequence[str], user: str) -> None:
    """Run the command behind the service's name in a container of it. ``UserError`` when none runs."""
    if len(words) < 2:
        remedy = "doit exec SERVICE COMMAND …; doit shell SERVICE opens a shell"
        raise UserError("exec needs the name of a service and a command", remedy=remedy)
    container = parts.running(run, words[0])
    argv = ["docker", "exec", "--interactive", *(["--tty"] if has_terminal() else []), *_as(user)]
    status = commands.show([*argv, container.id, *words[1:]], env=leading_to(run.engine.address))
    run.events.emit(CommandEnded(status))


def once(run: Run, words: Sequence[str], *, no_deps: bool, user: str) -> None:
    """Run the command behind the service's name, or the service's own, in a new container of it, which goes at its end;
    first what the service needs is started, but with ``no_deps``. ``UserError`` when that is not healthy."""
    if not words:
        raise UserError("run_once needs the name of a service", remedy="doit run_once SERVICE [COMMAND …]")
    service = words[0]
    compose = parts.part(checkout.settled(run), [service])
    with locked(run.engine.address, compose.project):
        built = _images_put_right(run, compose)
        services = compose.services()
        needed = [] if no_deps else [name for name in services if name != service]
        if needed:
            outcome = bringup.start(replace(compose, only=tuple(needed)), bringup.terms(run, "run"), built)
            if not outcome.healthy:
                raise UserError(bringup.explain(outcome, compose))
    options = ["--rm", "--no-deps", *([] if has_terminal() else ["--no-TTY"]), *_as(user)]
    override = run.folder / "once" / f"{compose.project}-{service}.yml"
    files.write(override, _as_built(services[service], built))
    compose = replace(compose, files=(*compose.files, override))
    with one_container.named(run.engine) as name:
        _show(run.events, compose, ["--progress", "quiet", "run", "--name", name, *options, *words])


def passed_on(run: Run, words: Sequence[str]) -> None:
    """Run ``docker compose`` with these words for this checkout's stack: with the files, the name, the environment and
    the images that ``up`` takes."""
    compose = checkout.settled(run)
    with locked(run.engine.address, compose.project):
        _images_put_right(run, compose)
    _show(run.events, compose, words)


def has_terminal() -> bool:
    """Whether a command gets a terminal of us."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _images_put_right(run: Run, compose: Compose) -> dict[str, str]:
    """Let Compose make containers from the images of this checkout; which image each name stands for."""
    kept = images.kept(run)
    checkout.pin(run.folder, compose, kept)
    built = images.named(kept)
    images.put_names_right(run.engine, compose.services(), built)
    return built


def _as_built(service: Service, built: Collection[str]) -> str:
    """An override by which a service has its image, nothing to build it from, and if it was built here nothing to pull:
    ``run`` has no ``--no-build``, and Compose 2.40 builds in it what is there."""
    name, image = (json.dumps(text.replace("$", "$$")) for text in (service.name, service.image))
    pull = "    pull_policy: missing\n" if normalise(service.image) in built else ""
    return f"services:\n  {name}:\n    image: {image}\n    build: !reset null\n{pull}"


def _show(events: Events, compose: Compose, words: Sequence[str]) -> None:
    status = commands.show(compose.argv(*words), cwd=compose.directory, env=compose.env)
    events.emit(CommandEnded(status))


def _as(user: str) -> list[str]:
    return ["--user", user] if user else []
