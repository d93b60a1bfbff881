"""What the generator of projects found, each as small as it got."""

from __future__ import annotations

from tests.differential.projects import Case, Folder, Project


def alone(dockerfile: str, build: str = '"aUNIQ"', **more: str) -> Project:
    """A project of one image."""
    compose = f'name: "NAME"\nservices:\n  s0: {{"image": "NAME/s0", "build": {build}}}\n'
    return Project(
        {"aUNIQ/f": "f", "aUNIQ/d/x": "d/x", "aUNIQ/Dockerfile": dockerfile, "compose.yaml": compose, **more}
    )


_SERVICE = 'services:\n  s0: {"image": "NAME/s0", "build": {"context": "CONTEXT", "args": {"A": "${V:-none}"}}}\n'
_DOCKERFILE = "FROM scratch\nARG A\nENV A=$A\n"

FOUND = [
    Case(
        "an override of another suffix",
        alone(_DOCKERFILE, **{"compose.override.yml": 'services: {s0: {build: {args: {"A": "1"}}}}\n'}),
        tree={"compose.override.yml": 'services: {s0: {build: {args: {"A": "2"}}}}\n'},
    ),
    Case(
        "a file below, and the env file that names it",
        Project(
            {
                "aUNIQ/Dockerfile": _DOCKERFILE,
                "sub/c.yml": 'name: "NAME"\n' + _SERVICE.replace("CONTEXT", "../aUNIQ"),
                ".env": "COMPOSE_FILE=sub/c.yml\nV=1\n",
            }
        ),
        tree={".env": "COMPOSE_FILE=sub/c.yml\nV=2\n"},
    ),
    Case("no layer and no history", alone("FROM scratch\nONBUILD COPY f /o\n"), tree={"aUNIQ/f": "changed"}),
    Case(
        "a platform of a system alone",
        alone("FROM --platform=linux scratch\nCOPY f /o\n", '{"context": "aUNIQ", "platforms": ["linux"]}'),
        tree={"aUNIQ/f": "changed"},
    ),
    Case(
        "a default platform that is none",
        alone("FROM scratch\nCOPY f /o\n"),
        environ={"DOCKER_DEFAULT_PLATFORM": "f"},
    ),
    Case(
        "the mode of a folder beside no file",
        alone("FROM scratch\nCOPY . /o/\n", **{"aUNIQ/sub/deep/x": "x"}),
        tree={"aUNIQ/sub/deep": Folder(0o700)},
    ),
]
