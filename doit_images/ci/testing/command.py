"""How is a test run that is a command in the finished image?

The image with the test's inputs is made by the engine's own BuildKit, under a name that goes again, and the command
runs in a container of it: without a network, or in that of the services that it needs, which run in a stack of their
own. What it sees is just what its fingerprint covers.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from doit_images.ci.testing.attempt import Trial, ended, hidden_lines, log_of
from doit_images.ci.testing.declared import DEFAULT, NONE, ImageTest
from doit_images.ci.testing.planned import Planned
from doit_images.core.base import commands, files, leftovers, platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings
from doit_images.core.building import parents
from doit_images.core.building.context import as_built, changes_since, sending
from doit_images.core.buildkit import buildx
from doit_images.core.compose.stack import Compose
from doit_images.core.compose.tests import DECLARED, environment
from doit_images.core.engine import plugins, temporary_tag
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import context, leading_to
from doit_images.core.inputs import stamps
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run
from doit_images.stack import bringup, ephemeral_stack, images, one_container, secrets
from doit_images.stack.containers import Containers

_DOCKERS_OWN = re.compile(
    r"PATH|HOME|LD_(PRELOAD|LIBRARY_PATH)|DOCKER_(HOST|CONTEXT|CONFIG|CERT_PATH|TLS\w*|API_VERSION)"
)
_JUNIT = "junit.xml"
_LAST_LINES = 20
_REPOSITORY = "doit-images-test"


class Surroundings(NamedTuple):
    """What a container is put into: its networks, the first of which it is made with, and its environment."""

    networks: tuple[str, ...]
    environment: Mapping[str, str]
    compose: Compose


def run_command(run: Run, planned: Planned, inputs: ImageInputs) -> Trial:
    """Run the command to its end; a failure is an attempt too. Raises ``UserError``."""
    run.settings.need_engine()
    test = planned.test
    with _image(run, inputs) as (ref, moved), _surroundings(run, test) as around, leftovers.folder("test-") as folder:
        began = time.time()
        first, *others = around.networks
        words = ["--network", first, "--security-opt", "no-new-privileges:true", "--init"]
        variables, env = options_for(around.environment)
        argv = [*words, *variables, ref, *test.command]
        with one_container.created(run.engine, *argv, env=env) as name:
            for network in others:
                done = commands.run(["docker", "network", "connect", network, name], env=leading_to(run.engine.address))
                done.checked("the test gets no network of its services")
            known = {**around.compose.environ, **around.environment}
            hide = secrets.hider(around.compose.directory, known)
            status = _attached(run.settings, run.engine, name, log_of(run.folder, planned), hide)
            there = bool(test.junit) and one_container.take(run.engine, name, test.junit, folder / _JUNIT)
            why = _why(run.folder, planned, status) if status else ""
            attempt = ended(status, began, (folder, _JUNIT) if there else None, why)
            return attempt._replace(junit=hide(attempt.junit), moved=moved)


def options_for(environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The options of ``docker create`` that give a container these variables, and those that it takes from its own
    environment, since others may read a command line: all but what that command goes by itself."""
    env = {name: value for name, value in environment.items() if not _DOCKERS_OWN.fullmatch(name)}
    words = [name if name in env else f"{name}={value}" for name, value in environment.items()]
    return [each for word in words for each in ("--env", word)], env


def _attached(settings: Settings, engine: Engine, name: str, log: Path, hide: Callable[[str], str]) -> int:
    """Start the container, write down what it says, without the values of secrets, and wait for its end; its exit
    status."""
    argv = ["docker", "start", "--attach", name]
    limit = settings.build_timeout or None
    with (
        files.log(log, append=False) as lines,
        commands.start(argv, env=leading_to(engine.address), seconds=limit) as process,
    ):
        for text in hidden_lines(process.output(), hide):
            lines.write(text)
            lines.flush()
    return process.returncode


def _why(folder: Path, planned: Planned, status: int) -> str:
    log = log_of(folder, planned)
    last = [f"    {line}" for line in files.text(log).splitlines()[-_LAST_LINES:]]
    words = " ".join(planned.test.command)
    lines = [f"failed {planned.name}: `{words}` ended with exit status {status}", *last, f"    the whole log: {log}"]
    return "\n".join(lines)


@contextlib.contextmanager
def _image(run: Run, inputs: ImageInputs) -> Iterator[tuple[str, bool]]:
    """For the block: the image with the test's inputs, under a temporary name, and whether these were written to while
    it was made."""
    ref = f"{_REPOSITORY}:{temporary_tag.make('building')}"
    temporary_tag.note(run.engine, ref)
    try:
        with (
            parents.pinned(run.engine, run.local_images, inputs, registry_only=run.settings.registry_only) as pins,
            sending(inputs.index, run.common),
            leftovers.folder("test-") as folder,
        ):
            platform = platforms.held(inputs.platforms, run.local_images.snapshot().platform)
            image = replace(as_built(inputs, folder, run.common), platforms=(platform,))
            env = run.build_environ
            argv = buildx.build_argv(
                image,
                parents=pins.contexts,
                labels={},
                tag=ref,
                iidfile=f"{folder}/id",
                environ=env,
                progress="plain",
                extra=["--builder", context(run.environ)],
            )
            before = stamps.look(inputs.parts)
            done = commands.run(plugins.direct(argv, env), cwd=run.project.directory, env=env)
            done.checked(f"{inputs.name}: its inputs cannot be put into the image")
            moved = bool(changes_since(inputs.index, before).files)
        yield ref, moved
    except parents.Vanished as parent:
        raise UserError(f"{inputs.name}: {parent}", remedy="run it again") from None
    finally:
        temporary_tag.take_away(run.engine, [ref])


@contextlib.contextmanager
def _surroundings(run: Run, test: ImageTest) -> Iterator[Surroundings]:
    """For the block: the services that a test needs, if any, healthy in a stack of their own."""
    compose = Compose(run.files, run.project.name, run.environ, only=test.services)
    if not test.services:
        network = {NONE: "none", DEFAULT: "bridge"}[test.network]
        yield Surroundings((network,), _environment(compose, test), compose)
        return
    terms = bringup.terms(run, f"test-{test.name}")
    with ephemeral_stack.running(compose, terms, images.built(run)) as stack:
        if not stack.outcome.healthy:
            raise UserError(bringup.explain(stack.outcome, stack.compose))
        networks = Containers(stack.compose.project).belongings().networks
        yield Surroundings(networks or ("none",), _environment(stack.compose, test), stack.compose)


def _environment(compose: Compose, test: ImageTest) -> dict[str, str]:
    """The variables that the declaration gives, with the values of this stack. Raises ``UserError``."""
    if not test.environment:
        return {}
    given = environment(compose.config()[DECLARED][test.name]["environment"]) or {}
    return {name: value or "" for name, value in given.items()}
