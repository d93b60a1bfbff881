"""How is a stack started, and what is reported when that fails?

Used by everything that starts one: ``up``, ``dev``, ``ci_test``, ``migrate_to_optimized``.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from doit_images.core.base import commands
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import Events
from doit_images.core.base.process import Process
from doit_images.core.compose.stack import Compose, Service, create_argv, pull_argv, recreate_argv, start_argv
from doit_images.core.engine.client import Engine, normalise
from doit_images.core.run import Run
from doit_images.stack import images, passed_over, secrets
from doit_images.stack.containers import Container, Containers
from doit_images.stack.events import waiting
from doit_images.stack.health import Health, ServiceHealth, Waited, WaitLimits, wait

_LAST_LINES = 15
_LEAVE_SECONDS = 10
# What engines say when each of their default address pools is some network's: up to 26, and since then.
_NO_NETWORK = re.compile(
    r"available, non-overlapping IPv4 address pool|predefined address pools have been fully subnetted"
)
_NO_IMAGE_MOUNT = 'invalid mount config for type "image"'
_TRIES = 3  # so often names are put right that somebody else moves


@dataclass(frozen=True)
class Terms:
    """How a stack is started: who hears of it, how long it may take, and the file for what Compose says."""

    events: Events
    limits: WaitLimits
    log: Path


def terms(run: Run, command: str, enough: Callable[[], bool] | None = None) -> Terms:
    """As the settings of this run say, for one of its commands; ``enough`` as in ``WaitLimits``."""
    settings = run.settings
    limits = WaitLimits(overall=settings.up_seconds, service=settings.up_service_seconds, enough=enough)
    return Terms(run.events, limits, run.folder / "logs" / f"compose-{command}.log")


def start(compose: Compose, terms: Terms, built: Mapping[str, str] | None = None) -> Waited:
    """Create and start what is missing or changed of the services that are meant, and wait until all of these are
    healthy or one is not.

    ``built`` is which image each name must stand for: no container of another is started. Raises ``UserError`` when
    Compose cannot begin; a service that does not become healthy is told by the outcome, for the caller to decide what
    follows (see ``explain``).
    """
    config = compose.config()
    services = compose.meant(config)
    for sentence in passed_over.sentences(config, compose):
        print(sentence, file=sys.stderr)
    expected = {name: service.replicas for name, service in services.items() if service.replicas}
    project = Containers(compose.project)
    project.put_names_right()
    stop_unhealthy(compose, project, services)
    log = terms.log
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as output,
        waiting(terms.events) as show,
        _Work(compose, services, built or {}, output) as work,
    ):

        def checked(verdicts: Mapping[str, ServiceHealth], seconds: float) -> None:
            if commands.stopping():
                raise commands.Stopped
            show(verdicts, seconds)

        outcome = wait(project, expected, terms.limits, working=work.is_alive, show=checked)
        # Compose itself waits for what has just failed; it leaves with its own words.
        stopped = work.is_alive()
    if work.error:
        raise work.error
    if work.status and not stopped and not any(verdict.state == Health.FAILED for verdict in outcome.verdicts.values()):
        raise refused(last_words(log.read_text(errors="replace")), log)
    if outcome.healthy:
        for remark in _remarks(outcome, compose):
            print(remark, file=sys.stderr)
    return outcome


def refused(words: str, log: Path) -> UserError:
    """The error for what Compose said last, with the remedy where it is known."""
    remedy = f"its log is {log}"
    if _NO_IMAGE_MOUNT in words:
        remedy = f"this engine mounts no images (volumes of `type: image`), Engine 28 is the first that does; {remedy}"
    if _NO_NETWORK.search(words):
        remedy = (
            "an engine has room for some thirty networks: remove stacks (doit ps --all shows this project's,"
            f" docker network prune all that are unused), or give it smaller ones, as default-address-pools; {remedy}"
        )
    return UserError(f"docker compose up: {words}", remedy=remedy)


def _remarks(outcome: Waited, compose: Compose) -> list[str]:
    """What services that ran once, and ended well, wrote to standard error: not wrong, but to be known."""
    project = Containers(compose.project)
    ended = (container for container in outcome.containers if container.state == "exited" and not container.exit_code)
    return [
        f"{container.service}: {line.strip()}"
        for container in ended
        for line in tail(project.logs(container.id, _LAST_LINES, stdout=False), compose)
    ]


class _Work(threading.Thread):
    """Compose at work during the block: it creates containers, these are checked, and only then it starts them.

    ``status`` is that of the command that ended it, ``error`` why nothing was started although that was 0.
    """

    def __init__(
        self, compose: Compose, services: Mapping[str, Service], built: Mapping[str, str], output: IO[bytes]
    ) -> None:
        super().__init__(daemon=True)
        self.status = 0
        self.error: Exception | None = None
        self._compose, self._services, self._built, self._output = compose, services, built, output
        self._process: Process | None = None
        self._ended = False

    def __enter__(self) -> _Work:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        until = time.monotonic() + _LEAVE_SECONDS
        while self.is_alive() and time.monotonic() < until:
            if self._process:
                self._process.stop()
            self.join(timeout=0.1)

    def run(self) -> None:
        """Create, look, start."""
        try:
            if self._create() and not self._ended:
                self._run(start_argv(self._compose))
        except Exception as error:  # whatever it is, it is raised by who started this thread
            self.error = error

    def _create(self) -> bool:
        """Whether every container is there and was made from the image that was built for it; ``UserError`` if some are
        still of another after some tries."""
        engine, project, pull = Engine(), Containers(self._compose.project), self._pulled()
        mismatched: list[Container] = []
        if pull is None:
            return False
        for _ in range(_TRIES):
            images.put_names_right(engine, self._services, self._built)
            if self._run(create_argv(self._compose, pull=pull)):
                return False
            there = project.look()
            stale = {container.service for container in images.mounting_others(engine, there, self._built)}
            if stale := stale.intersection(self._services):
                if self._run(recreate_argv(self._compose, stale, pull=pull)):
                    return False
                there = project.look()
            mismatched = images.wrong(engine, there, self._services, self._built)
            if not mismatched:
                return True
        names = ", ".join(f"{container.name} ({container.image})" for container in mismatched)
        raise UserError(
            f"Compose used other images than were built here: {names}",
            remedy="find out who else tags them",
        )

    def _pulled(self) -> str | None:
        """How Compose is to pull: as the files say, unless that would be in place of what was built here; then the
        others are pulled beforehand. None where that failed."""
        pulling = {name for name, service in self._services.items() if service.pulls}
        others = {name for name in pulling if normalise(self._services[name].image) not in self._built}
        if pulling == others:
            return ""
        return None if others and self._run(pull_argv(self._compose, others)) else "missing"

    def _run(self, argv: Sequence[str]) -> int:
        # Compose that is killed while it replaces a container leaves two of them, and one by a name of the moment.
        with commands.start(argv, cwd=self._compose.directory, env=self._compose.env, outlives=True) as self._process:
            # Its output is read at once: a full pipe would stop it.
            for data in self._process.output():
                self._output.write(data)
        self.status = self._process.returncode
        return self.status


def stop_unhealthy(compose: Compose, project: Containers, services: Collection[str]) -> None:
    """Stop what is unhealthy already of these services: Compose would not start what depends on it, but starts it again
    in its turn."""
    running = (one for one in project.look() if one.running and one.service in services)
    if unhealthy := sorted({container.service for container in running if container.health == "unhealthy"}):
        compose.run("--progress", "plain", "stop", *unhealthy)


def explain(outcome: Waited, compose: Compose) -> str:
    """Why the stack is not healthy: each failed service in a sentence, with the last lines that it wrote."""
    project = Containers(compose.project)
    return "\n".join(_explain(name, verdict, outcome, project, compose) for name, verdict in outcome.failed.items())


def _explain(name: str, verdict: ServiceHealth, outcome: Waited, project: Containers, compose: Compose) -> str:
    late = f" after {outcome.seconds:.0f} s (UP_SECONDS)" if verdict.state == Health.WAITING else ""
    paragraphs = [f"{name}: {verdict.words}{late}"]
    for container in [container for container in outcome.containers if container.service == name][:1]:
        check = project.last_check(container.id) if container.health else ""
        paragraphs += [f"its last health check said: {check}"] if check else []
        written = tail(project.logs(container.id, _LAST_LINES), compose)
        paragraphs += [f"its last lines (all of them: doit logs {name}):", *written] if written else []
    return "\n".join(paragraphs)


def tail(text: str, compose: Compose) -> list[str]:
    """What a container wrote, as indented lines without the values of secrets."""
    return [f"    {line}" for line in secrets.hider(compose.directory, compose.environ)(text).splitlines()]
