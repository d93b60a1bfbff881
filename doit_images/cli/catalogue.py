"""Table of contents: every task, by the question that it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from doit_images.cli import build, cache, configuration, deps, process, show, stack, tests
from doit_images.core.around import LocalBase
from doit_images.core.base.task_names import TaskNames
from doit_images.core.run import Parts, Run
from doit_images.share.connection import Machines

TASKS: Mapping[str, Callable[..., Any]] = {
    # the images, and what they are built on; what would be done about them, and why; do they work
    "build": build.task_build,
    "build_base": build.task_build_base,
    "plan": show.task_plan,
    "test_image": tests.task_test_image,
    # where work is kept and shared
    "cache_init": cache.task_cache_init,
    "cache_stats": cache.task_cache_stats,
    "cache_prune": cache.task_cache_prune,
    "rebuild": cache.task_rebuild,
    "cache_export": cache.task_cache_export,
    "cache_import": cache.task_cache_import,
    "registry_prune": cache.task_registry_prune,
    "share_key": cache.task_share_key,
    # the stack: up, down, how it is, what it says, edited
    "up": stack.task_up,
    "down": stack.task_down,
    "ps": stack.task_ps,
    "logs": stack.task_logs,
    "dev": stack.task_dev,
    "shell": stack.task_shell,
    "backup": stack.task_backup,
    "restore": stack.task_restore,
    "_env_file": stack.task__env_file,
    # as a machine wants it that nobody watches; what is deployed, and is it what the sources give
    "ci_build": stack.task_ci_build,
    "images": show.task_images,
    "verify": deps.task_verify,
    "sbom": deps.task_sbom,
    "provenance": deps.task_provenance,
    # which packages the images hold: what is behind, and newer ones
    "deps_check": deps.task_deps_check,
    "deps_update": deps.task_deps_update,
    # what was built before, how it went, how large it is; is this machine able
    "history": show.task_history,
    "build_report": show.task_build_report,
    "image_sizes": show.task_image_sizes,
    "doctor": show.task_doctor,
    "completion": show.task_completion,
}


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
    for creator in TASKS.values():
        vars(creator)["__wrapped__"] = _anywhere
    found: dict[str, Any] = {f"task_{here[plain]}": creator for plain, creator in TASKS.items()}
    config = {**beside.get("DOIT_CONFIG", {}), **config}
    return {**found, "DOIT_CONFIG": configuration.merged(configuration.doit_config(), config, own, here.values())}


def _anywhere() -> None:
    """doit sorts tasks by their creators' lines, for which Python parses the whole of each: a run with nothing to do
    would spend a fiftieth of its time on that. It looks here instead."""


def prefixed(prefix: str, plain: str) -> str:
    """A task's name with a prefix; one that doit does not list stays so.

    >>> prefixed("docker_", "up"), prefixed("docker_", "_env_file")
    ('docker_up', '_docker_env_file')
    """
    return f"_{prefix}{plain[1:]}" if plain.startswith("_") else f"{prefix}{plain}"
