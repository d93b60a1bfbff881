"""Which tasks does the package have, and what are they called in a project?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from doit_images.cli import build, cache, configuration, deps, process, show, stack, tests
from doit_images.core.around import LocalBase
from doit_images.core.base.task_names import TaskNames
from doit_images.core.run import Parts, Run
from doit_images.share.connection import Machines

TASKS: Mapping[str, Callable[..., object]] = {
    name.removeprefix("task_"): creator
    for module in (build, show, tests, cache, stack, deps)
    for name, creator in vars(module).items()
    if name.startswith("task_")
}
"""What makes each task, by its plain name, in the order of these modules."""


def named(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """What each task is called here, by its plain name: as ``names`` says, else with the prefix."""
    return {plain: names.get(plain) or prefixed(prefix, plain) for plain in TASKS}


def loaded(
    here: Mapping[str, str],
    config: Mapping[str, Any],
    base: Callable[[Run], LocalBase | None] | None,
    beside: Mapping[str, Any],
) -> dict[str, Any]:
    """See ``doit_images.tasks``; ``here`` is what ``named`` says."""
    own = [name.removeprefix("task_") for name in beside if name.startswith("task_")]
    if taken := sorted({*own} & {*here.values()}):
        from doit.exceptions import InvalidDodoFile

        raise InvalidDodoFile(f"the task {taken[0]} is there twice: give doit_images.tasks() a prefix")
    others = {plain: other for plain, other in here.items() if other != plain}
    parts = Parts(peers=Machines, names=TaskNames(others))
    process.compose(replace(parts, base=base) if base else parts)
    without_lines(TASKS)
    found: dict[str, Any] = {f"task_{here[plain]}": creator for plain, creator in TASKS.items()}
    config = {**beside.get("DOIT_CONFIG", {}), **config}
    return {**found, "DOIT_CONFIG": configuration.merged(configuration.doit_config(), config, own, here.values())}


def without_lines(creators: Mapping[str, object]) -> None:
    """doit sorts tasks by their creators' lines, for which Python tokenizes each: 4 % of what 100 images take. Those of
    these names that are creators of tasks keep the order of the names: a module is asked for, which has no line."""
    for name, creator in creators.items():
        if name in TASKS or name.startswith("task_"):
            vars(creator)["__wrapped__"] = process


def prefixed(prefix: str, plain: str) -> str:
    """A task's name with a prefix; one that doit does not list stays so.

    >>> prefixed("docker_", "up"), prefixed("docker_", "_env_file")
    ('docker_up', '_docker_env_file')
    """
    return f"_{prefix}{plain[1:]}" if plain.startswith("_") else f"{prefix}{plain}"
