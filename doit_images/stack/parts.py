"""Which services do names mean, what do they need, and which images is that?

What a service needs Compose says itself: `config SERVICE …` answers with these services, whatever they depend on, and
all of that whose profile has one of them. Images of a part are those that its services are built from, run or mount.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from doit_images.core.base.errors import UserError, meant, nearest
from doit_images.core.base.references import familiar
from doit_images.core.compose.image import Image
from doit_images.core.compose.stack import Compose, Service
from doit_images.core.run import Run
from doit_images.stack.checkout import compose_of, project_of
from doit_images.stack.containers import Container, Containers

_PROFILES = "COMPOSE_PROFILES"


def part(compose: Compose, names: Collection[str], *, alone: bool = False) -> Compose:
    """The part of a project that consists of these services and what they need, or of them ``alone``; all of it where
    none is named. ``UserError`` for ``alone`` without names."""
    if alone and not names:
        raise UserError("--no-deps is about services that are named", remedy="name them")
    return replace(compose, only=tuple(dict.fromkeys(names)), alone=alone)


def services_of(run: Run, names: Collection[str], *, alone: bool = False) -> Mapping[str, Service]:
    """The services of a part of the project. ``UserError`` for a name that no service has, of whatever profile."""
    compose = project_of(run)
    try:
        return part(compose, names, alone=alone).services()
    except UserError:
        done = compose.run("--profile", "*", "config", "--services")
        check(names, done.stdout.split() or names)
        raise


def further_profiles(files: tuple[Path, ...], environ: Mapping[str, str], words: Collection[str]) -> list[str]:
    """All profiles that are to be active where services among these words have others than are; none where not."""
    compose = Compose(files, "", environ)
    declared = compose.config("--profile", "*").get("services") or {}
    wanted = [tuple(declared[name].get("profiles") or ()) for name in words if name in declared]
    if not any(wanted):
        return []
    active = [name for name in compose.values([_PROFILES]).get(_PROFILES, "").split(",") if name]
    further = [names for names in wanted if names and "*" not in active and set(names).isdisjoint(active)]
    return [*dict.fromkeys([*active, *chain(*further)])] if further else []


def check(names: Iterable[str], known: Collection[str]) -> None:
    """``UserError`` for a name that is not among those that are known."""
    for name in names:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}"
            raise UserError(
                f"no service is called {name!r}",
                remedy=f"{meant(name, known)} {there}" if nearest(name, known) else there,
            )


def known(compose: Compose) -> list[str]:
    """The services of a project, those included that have a container of a profile that is not active."""
    return sorted({*compose.services(), *(container.service for container in Containers(compose.project).look())})


def images_of(images: Mapping[str, Image], services: Mapping[str, Service]) -> list[str]:
    """Which images these services are built from, run or mount, whoever builds them; not what those build on."""
    run = {familiar(ref) for service in services.values() for ref in service.images}
    return [
        name for name, image in images.items() if name in services or not run.isdisjoint(map(familiar, image.names))
    ]


def with_parents(names: Iterable[str], parents: Mapping[str, Iterable[str]]) -> set[str]:
    """These images and all that they build on."""
    found, waiting = set[str](), list(names)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += parents.get(name, ())
    return found


def running(run: Run, service: str) -> Container:
    """A container of this service that runs. ``UserError`` when there is none."""
    compose = compose_of(run)
    there = [container for container in Containers(compose.project).look() if container.service == service]
    for container in there:
        if container.running:
            return container
    if not there:
        check([service], known(compose))
    raise UserError(f"{service} does not run", remedy=f"doit up {service}")
