"""By which further names are the tasks known here? Those of the guide that this repository began with.

``build_optimized`` and its like are the names of the tasks themselves; beside them stand ``build_IMAGE_optimized``, and
the plain names that the tasks have in other projects. Five of them do more here: there is a standard deployment
too, and uv is in the development environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from doit_images.cli import deps, show, stack
from doit_images.cli.action import Task, act
from doit_images.cli.build import declared_images, group

NAMES = {plain: f"{plain}_optimized" for plain in ("build", "rebuild", "up", "down", "ps", "logs", "dev")}

stack.FURTHER_NAMES |= {"up", "dev"}
task_ps, task_logs, task_dev = stack.task_ps, stack.task_logs, stack.task_dev


def task_up() -> Task:
    """As up_optimized"""
    return _then_end(stack.task_up, "up")


def task_down() -> Task:
    """As down_optimized"""
    return _then_end(stack.task_down, "down")


def _then_end(creator: Callable[[], Task], name: str) -> Task:
    """The task, at whose end a migration ends that was left half-way; not if it was about some services alone."""

    def end(*, task: object, services: Sequence[str], **options: object) -> Any:
        return None if services else act("tasks.journal:end_left", name, task=task)

    task = creator()
    return {**task, "doc": creator.__doc__, "actions": [*task["actions"], (end, [])]}


def task_image_sizes() -> Task:
    """What takes space in the images, beside those of the standard deployment"""
    task = show.task_image_sizes()
    return {**task, "doc": show.task_image_sizes.__doc__, "actions": [(act, ["tasks.standard:image_sizes"])]}


def task_deps_check() -> Task:
    """Which locked packages are behind, by uv of the development environment"""
    return _with_uv(deps.task_deps_check)


def task_deps_update() -> Task:
    """Newer packages, by uv of the development environment"""
    return _with_uv(deps.task_deps_update)


def _with_uv(creator: Callable[[], Task]) -> Task:
    return {**creator(), "doc": creator.__doc__, "task_dep": ["_dev_environment"]}


OWN = {
    "task_up_optimized": task_up,
    "task_down_optimized": task_down,
    "task_image_sizes": task_image_sizes,
    "task_deps_check": task_deps_check,
    "task_deps_update": task_deps_update,
}
"""In place of the package's."""


def task_build_image_optimized() -> Iterator[Task]:
    """Build one image, with what it needs"""
    by_task: dict[str, list[str]] = {}
    for name in declared_images()[0]:  # none of a project that cannot be read: the default task says why
        by_task.setdefault(f"build_{name.replace('-', '_')}_optimized", []).append(name)
    for task, names in by_task.items():  # `a-b` and `a_b` share one
        yield group(task, f"build {' and '.join(names)}, with what it needs", names)


def task_build() -> Iterator[Task]:
    """As build_optimized"""
    yield from _as("build")


def task_rebuild() -> Iterator[Task]:
    """As rebuild_optimized"""
    yield from _as("rebuild")


def _as(plain: str) -> Iterator[Task]:
    yield {"name": None, "doc": f"as {NAMES[plain]}", "task_dep": [NAMES[plain]]}
    # Hundreds of images have no second task each in a run that names none of these.
    if any(word.startswith(f"{plain}:") for word in sys.argv[1:]):
        for image in declared_images()[0]:
            yield {"name": image, "actions": None, "task_dep": [f"{NAMES[plain]}:{image}"]}
