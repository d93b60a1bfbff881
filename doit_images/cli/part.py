"""Which services does a command line name, so that only the images that these need are built?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from doit.exceptions import InvalidCommand
from doit.task import Task

from doit_images.cli.action import with_words
from doit_images.cli.process import current, names
from doit_images.core.base.errors import UserError

_TAKE_SERVICES = ("up", "dev", "run_once")


def narrow(task: Task) -> None:
    """Let a task that starts the services that it is given wait for the images of these, instead of for all. Raises
    ``InvalidCommand`` for one that there is not."""
    if not (task.meta or {}).get("part"):
        return
    from doit_images.stack import parts  # few runs start a stack

    try:
        given = with_words(task, {**task.options, task.pos_arg: task.pos_arg_val})
        words = given[task.pos_arg] or ()
        services = words[:1] if task.meta.get("verbatim") else words
        alone = given["no_deps"]
        if services or (alone and not task.meta.get("verbatim")):
            needed = parts.services_of(current(), services, alone=alone)
            images = [names()(f"build:{name}") for name in parts.images_of(current().project.images, needed)]
            others = [name for name in task.task_dep if name != names()("build")]
            task.task_dep[:] = [*others, *images]
    except UserError as error:
        raise InvalidCommand(names().in_text(str(error))) from None


def as_once(selection: Sequence[str], tasks: Mapping[str, Task], argv: Sequence[str]) -> list[str]:
    """What is selected: ``doit run SERVICE COMMAND`` means ``run_once``, as no task has the name of that service."""
    if argv[1:2] == ["run"] and selection and selection[0] not in tasks:
        from doit_images.stack.checkout import project_of

        try:
            if selection[0] in project_of(current()).services():
                return [names()("run_once"), *selection]
        except UserError:
            pass  # of a project that cannot be read nothing is known
    return list(selection)


def named(argv: Sequence[str]) -> list[str]:
    """The words of a command line that may be services which it starts.

    >>> named(["doit", "-n", "2", "up", "--no-deps", "web", "db"]), named(["doit", "run_once", "web", "ls", "-l"])
    (['web', 'db'], ['web'])
    >>> named(["doit", "up"]), named(["doit", "logs", "web"])
    ([], [])
    """
    for place, task in enumerate(argv):
        for plain in _TAKE_SERVICES:
            if place and task in (plain, names()(plain)):
                words = [word for word in argv[place + 1 :] if not word.startswith("-")]
                return words[:1] if plain == "run_once" else words
    return []


def activate_profiles(argv: Sequence[str]) -> None:
    """Let this process have the profiles of the services that its command line starts, as Compose would: their images,
    ports and names then are those of the project. Nothing for a project that cannot be read: others say why."""
    if not (words := named(argv)):
        return
    from doit_images.core.run import Run
    from doit_images.stack import parts

    run = Run()
    try:
        if further := parts.further_profiles(run.files, run.environ, words):
            os.environ["COMPOSE_PROFILES"] = ",".join(further)
    except UserError:
        return
