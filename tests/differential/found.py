"""What the generator of projects found, each as small as it got."""

from __future__ import annotations

from tests.differential.projects import Case, Project


def alone(dockerfile: str, build: str = '"aUNIQ"', **more: str) -> Project:
    """A project of one image."""
    compose = f'name: "NAME"\nservices:\n  s0: {{"image": "NAME/s0", "build": {build}}}\n'
    return Project(
        {"aUNIQ/f": "f", "aUNIQ/d/x": "d/x", "aUNIQ/Dockerfile": dockerfile, "compose.yaml": compose, **more}
    )


FOUND = [
    Case("no layer and no history", alone("FROM scratch\nONBUILD COPY f /o\n"), tree={"aUNIQ/f": "changed"}),
]
