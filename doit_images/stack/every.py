"""How is the stack of this checkout, or are those of all checkouts of the project, and how are they removed?

Found by what was chosen on this machine (``checkout``) and by Compose's labels on containers. A checkout may be gone
while its stack is not: what is left is removed without its files, by Compose's labels.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from doit_images.core.base import commands
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.task_names import TaskNames
from doit_images.core.compose.stack import Compose, down_argv
from doit_images.core.engine.client import Engine
from doit_images.core.planning.plan import Action
from doit_images.core.run import Run
from doit_images.stack import checkout, ending, parts
from doit_images.stack.checkout import Choice
from doit_images.stack.containers import Belongings, Containers, composed
from doit_images.stack.events import ServicesListed, rows
from doit_images.stack.layers import Disk, chained, parts_of

_GONE = "`doit down --gone` removes it"


def stacks(own: Choice) -> list[Choice]:
    """The stack of this checkout and those of all others of its project, by name. That of one that is gone is among
    them until nothing of it is left."""
    here, found = own.place, {own.name: own}
    for choice in checkout.known(own.engine):
        if choice.project != own.project and (not own.of or choice.of != own.of):
            continue
        if not choice.place.there and not Containers(choice.name).belongings():
            checkout.forget(choice)
        else:
            found.setdefault(choice.name, choice)
    for stack in composed():  # of whoever typed `docker compose up`
        choice = replace(own, name=stack.project, directory=os.path.realpath(stack.directory), files=())
        if here.is_relative(choice.place) or (choice.name == own.project and here.is_twin(choice.place)):
            found.setdefault(choice.name, choice)
    return [found[name] for name in sorted(found)]


def ps(run: Run, *, as_json: bool, every: bool) -> None:
    """Print the services of this checkout's stack and their containers. With ``every``, each checkout's stack: whose it
    is, its containers and their addresses, how its images are, and the bytes on the disk that no other has."""
    listed = _rows(run) if every else _own(checkout.compose_of(run))
    if as_json:
        print(json.dumps(listed, indent=2))
    elif every:
        _print(run.parts.names, listed)
    else:
        run.events.emit(ServicesListed(listed))


def _own(compose: Compose) -> list[dict[str, object]]:
    services = [name for name, service in compose.services().items() if service.replicas]
    return rows(services, Containers(compose.project).look())


def _rows(run: Run) -> list[dict[str, object]]:
    choices, data = stacks(checkout.of(run)), run.engine.volume_bytes()
    shares = Disk({choice.name: _parts(run.engine, choice) for choice in choices})
    return [_row(choice, _images(run, choice), data, shares) for choice in choices]


def down(run: Run, services: Sequence[str], *, volumes: bool, yes: bool, all_worktrees: bool, gone: bool) -> None:
    """Remove the containers and networks of this checkout's stack, of those of all checkouts of the project, or of
    those whose checkout is ``gone``; with ``volumes`` also their data. Of this checkout's, only the containers of these
    ``services``, if any are named, and data that nothing else mounts. The user has to agree where data or the stack of
    another checkout goes. ``UserError`` for those that Compose could not remove."""
    others = all_worktrees or gone
    if services:
        if others:
            raise UserError("services are removed of this checkout's stack alone", remedy="leave out the option")
        compose = checkout.compose_of(run)
        with checkout.locked(run.engine.address, compose.project):
            _down_part(compose, services, volumes=volumes, yes=yes)
        return
    own = checkout.of(run)
    choices = stacks(own) if others else [own]
    choices = [choice for choice in choices if all_worktrees or not gone or not choice.place.there]
    with contextlib.ExitStack() as held:
        for choice in choices:
            held.enter_context(checkout.locked(own.engine, choice.name))
        there = [(choice, Containers(choice.name).belongings()) for choice in choices]
        going = [(one, left) for one, left in there if left.containers or left.networks or (volumes and left.volumes)]
        if not going:
            names = ", ".join(choice.name for choice in choices) or f"a checkout that is gone of {run.project.name}"
            data = ", ".join(name for _, left in there for name in left.volumes)
            print(f"nothing of {names} is up{f'; data is kept in {data}' * bool(data)}", file=sys.stderr)
            return
        if others or (volumes and any(left.volumes for _, left in going)):
            for choice, left in going:
                print(
                    f"this removes {choice.name}, of {_where(choice)}: {_what(left, volumes=volumes)}", file=sys.stderr
                )
            if not yes:
                confirm()
        failures = [why for choice, left in going if (why := _remove(run.environ, choice, left, volumes=volumes))]
    if failures:
        raise UserError("; ".join(failures))


def _down_part(compose: Compose, services: Sequence[str], *, volumes: bool, yes: bool) -> None:
    project = Containers(compose.project)
    there = project.look()
    if not {one.service for one in there}.issuperset(services):
        parts.check(services, parts.known(compose))
    going = [one for one in there if one.service in services]
    mounted = {name for one in there if one not in going for name in one.volumes.values()}
    own = {name for one in going for name in one.volumes.values()}.intersection(project.belongings().volumes)
    data = sorted(own - mounted) if volumes else []
    what = ", ".join(one.name for one in going) + (f"; for ever the data in {', '.join(data)}" if data else "")
    if not going:
        print(f"nothing of {', '.join(services)} is up", file=sys.stderr)
        return
    if data and not yes:
        print(f"this removes {what}", file=sys.stderr)
        confirm()
    names = sorted({one.service for one in going})
    if why := ending.begin(compose, *names):
        raise UserError(why)
    argv = ["docker", "compose", "--progress", "plain", "--project-name", compose.project]
    argv += ["rm", "--stop", "--force", *(["--volumes"] if volumes else []), *names]
    commands.run(argv, cwd=Path("/")).checked("docker compose rm")
    if data:
        commands.run(["docker", "volume", "rm", "--force", *data]).checked("the data cannot be removed")
    print(f"removed {what}", file=sys.stderr)


def _remove(environ: Mapping[str, str], choice: Choice, left: Belongings, *, volumes: bool) -> str:
    """Remove one stack, and say so; "" or why it is still there."""
    files = tuple(map(Path, choice.files))
    there = files and all(file.is_file() for file in files)
    if there and (why := ending.begin(Compose(files, choice.name, environ))):
        return f"{choice.name}: {why}"
    done = commands.run(down_argv(choice.name, volumes=volumes), cwd=Path("/"))
    if done.status:
        return f"{choice.name}: docker compose down: {done.why}"
    if not Containers(choice.name).belongings():
        checkout.forget(choice)
    print(f"removed {choice.name}: {_what(left, volumes=volumes)}", file=sys.stderr)
    return ""


def _what(left: Belongings, *, volumes: bool) -> str:
    parts, data = f"{len(left.containers)} containers, {len(left.networks)} networks", ", ".join(left.volumes)
    if not data:
        return parts
    return f"{parts}, for ever the data in {data}" if volumes else f"{parts}; data is kept in {data}"


def _where(choice: Choice) -> str:
    return f"{choice.directory}{'' if choice.place.there else ', which is gone'}"


def _parts(engine: Engine, choice: Choice) -> dict[str, int]:
    """The layers of all images that the containers of a stack are made from, by chain."""
    parts: dict[str, int] = {}
    for image_id in {container.image_id for container in Containers(choice.name).look()}:
        with contextlib.suppress(UserError):  # an image may have been removed under its container
            parts |= parts_of(chained(engine.layers(image_id)))
    return parts


def _row(choice: Choice, images: Mapping[str, str], data: Mapping[str, int], shares: Disk) -> dict[str, object]:
    project = Containers(choice.name)
    volumes = list(project.belongings().volumes)
    return {
        "stack": choice.name,
        "checkout": choice.directory,
        "gone": not choice.place.there,
        "services": rows((), project.look()),
        "volumes": volumes,
        "images": images,
        "disk": {"data": sum(data.get(name, 0) for name in volumes), "images": shares.unique(choice.name)},
    }


def _images(run: Run, choice: Choice) -> dict[str, str]:
    """What would be done about each image of a checkout; none where its files cannot be read."""
    if not choice.files or not all(Path(file).is_file() for file in choice.files):
        return {}
    with contextlib.suppress(UserError):
        planned = run.anew(run.caller, tuple(map(Path, choice.files))).planner.decisions()
        return {name: str(decision.action) for name, decision in planned.items()}
    return {}


def _print(names: TaskNames, listed: Sequence[Mapping[str, Any]]) -> None:
    from doit_images.core.base.output import Output, table

    drawn = table("stack", "checkout", "containers", "addresses", "images", numbers=("data", "own layers"))
    for row in listed:
        services = row["services"]
        addresses = [
            f"{service['service']} {address}" for service in services for address in service["addresses"].values()
        ]
        where = f"{row['checkout']} (gone)" if row["gone"] else row["checkout"]
        drawn.add_row(
            row["stack"],
            where,
            _state(services),
            "\n".join(addresses),
            _stale(row["images"]),
            *map(size_text, row["disk"].values()),
        )
    Output().print(drawn)
    for row in listed:
        if row["gone"]:
            print(f"the checkout of {row['stack']} is gone: {names.in_text(_GONE)}", file=sys.stderr)


def _state(services: Sequence[Mapping[str, object]]) -> str:
    """How many containers run, and how those are that do not, or are not healthy.

    >>> web = {"service": "web", "state": "running", "health": "unhealthy"}
    >>> _state([web, {"service": "migrate", "state": "exited", "health": ""}])
    '1 of 2 run, web unhealthy, migrate exited'
    """
    if not services:
        return "none"
    others = []
    for each in services:
        if each["state"] != "running":
            others.append(f"{each['service']} {each['state']}")
        elif each["health"] not in ("", "healthy"):
            others.append(f"{each['service']} {each['health']}")
    run = sum(service["state"] == "running" for service in services)
    return ", ".join([f"{run} of {len(services)} run", *others])


def _stale(images: Mapping[str, str]) -> str:
    """How many images are as the files say (whoever has their names now), and what would be done about the others.

    >>> _stale({"base": "fresh", "user": "retag", "web": "build"})
    '2 fresh, web: build'
    """
    there = (Action.FRESH, Action.RETAG)
    fresh = sum(action in there for action in images.values())
    others = [f"{name}: {action}" for name, action in images.items() if action not in there]
    return ", ".join([*([f"{fresh} fresh"] if fresh else []), *others])
