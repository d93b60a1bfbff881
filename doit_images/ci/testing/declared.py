"""Which tests does a project have?

A stage called ``test`` in the Dockerfile of an image is one, without a word in the Compose file. Any other is declared
there, in ``x-test`` (of the whole file: Compose 2.26 drops what a service's own ``x-`` says):

    x-test:
      auth-api:                              # as in `doit test_image:auth-api`
        service: auth                        # whose image; without it the one of this name
        command: [python, -m, pytest, /test/tests/api]
        inputs: [tests/api]                  # of the project's folder; the command finds them below /test
        services: [postgres]                 # of the Compose file, in a stack of their own
        environment: {POSTGRES_PASSWORD: "${POSTGRES_PASSWORD}"}
        network: none                        # the default where no services are needed; else `default`
        junit: /tmp/junit.xml                # in the container; of a stage, in what that stage holds
        cache: never                         # for what reads clock, network or randomness
      auth:
        target: checks                       # a stage of another name
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from doit_images.core.compose.project import Project
from doit_images.core.compose.tests import DECLARED
from doit_images.core.inputs.image_inputs import ImageInputs

STAGE = "test"
MOUNTED = "/test"
NONE, DEFAULT = "none", "default"
_STAGE = re.compile(rf"^[ \t]*from\s.*\sas\s+{STAGE}\s*$", re.IGNORECASE | re.MULTILINE)
_KEYS = {"service", "target", "command", "inputs", "services", "environment", "network", "junit", "cache"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PATH = re.compile(r"(?!/|(.*/)?\.\.(/|$))[\w ./@+,=~-]+")


class ImageTest(NamedTuple):
    """A test of the image of ``service``: a stage (``target``) of its Dockerfile, or a ``command`` in the finished
    image. ``problem`` is why it cannot be run, if its declaration already says so."""

    name: str
    service: str
    target: str = ""
    command: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = {}
    network: str = NONE
    junit: str = ""
    cache: bool = True
    problem: str = ""

    def declaration(self) -> dict[str, object]:
        """What of it counts for its result."""
        return {**self._asdict(), "environment": dict(self.environment), "problem": ""}


def declared(project: Project, images: Mapping[str, ImageInputs]) -> dict[str, ImageTest]:
    """The tests of a project by name, those of stages too; ``images`` are its images, whose Dockerfiles are read.
    Nothing is asked and nothing is built."""
    tests = {name: _declared(name, test, project) for name, test in sorted(project.tests.items())}
    staged = {test.service for test in tests.values() if test.target}
    for name, inputs in images.items():
        seems = _STAGE.search(inputs.dockerfile_text) and not inputs.image.duplicate_of
        if seems and name not in tests and name not in staged:
            tests[name] = ImageTest(name, name, target=STAGE, network="")
    return dict(sorted(tests.items()))


def _declared(name: str, said: Mapping[str, Any], project: Project) -> ImageTest:
    where = f"{project.files[0].name}: {DECLARED}.{name}"
    service = said.get("service", name)
    problems = [f"{where}: {problem}" for problem in _problems(name, said, project)]
    if problems:
        return ImageTest(name, service if service in [*project.images] else "", problem="; ".join(problems))
    command, services = said.get("command") or (), tuple(said.get("services") or ())
    staged = "" if command else said.get("target") or STAGE
    return ImageTest(
        name,
        service,
        target=staged,
        command=tuple(map(str, command)),
        inputs=tuple(said.get("inputs") or ()),
        services=services,
        environment=dict(said.get("environment") or {}),
        network=said.get("network") or ("" if staged else DEFAULT if services else NONE),
        junit=said.get("junit") or "",
        cache=said.get("cache") != "never",
    )


def _problems(name: str, said: Mapping[str, Any], project: Project) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield "no task can be called like that (letters, digits, - _ and .)"
    if unknown := sorted(said.keys() - _KEYS):
        yield f"{unknown[0]} means nothing here (there are {', '.join(sorted(_KEYS))})"
    service = said.get("service", name)
    if service not in [*project.images]:  # it may be a list
        yield f"{service!r} is no service with a build section (set `service:`)"
    for key in ("command", "inputs", "services"):
        if not _is_list(said.get(key) or ()):
            yield f"{key} must be a list of words"
    for key, values in (("network", (NONE, DEFAULT)), ("cache", ("never",))):
        if said.get(key) not in (None, *values):
            yield f"{key} must be {' or '.join(values)}"
    if said.get("command") and said.get("target"):
        yield "it has a command and a target: these are two tests"
    if not said.get("command") and (odd := [key for key in ("inputs", "services", "environment") if said.get(key)]):
        yield f"{odd[0]} is for a command: a stage has what its Dockerfile gives it"
    if said.get("services") and said.get("network") == NONE:
        yield "without a network it finds no services"
    if not isinstance(said.get("junit", ""), str) or not isinstance(said.get("target", ""), str | None):
        yield "junit and target are texts"
    if said.get("environment", {}) is None:
        yield "environment must be variables by name, or a list of NAME=value"
    inputs = said.get("inputs") or ()
    if _is_list(inputs) and not all(map(_PATH.fullmatch, inputs)):
        yield "inputs are files and folders below the project's folder, without patterns"


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, str) for each in value)
