"""Which stack is this checkout's?

    first: no other checkout has a stack under this project's name ──> the project's name and ports, as in its files
    else ──> a name of its own (`shop-feature`) and free ports, by override files in the project's own folder

What was chosen stays so for the checkout: it is kept in that folder, and in the user's state folder, where the other
checkouts find it, and which stack is whose when a checkout is gone. Without git, a checkout is the project's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doit_images.core.base import checked_json, files, lock, places
from doit_images.core.base.shapes import fits
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from doit_images.core.engine.client import Engine
from doit_images.core.run import Run
from doit_images.stack import compose_override
from doit_images.stack.containers import Containers, composed
from doit_images.stack.free_port import is_free
from doit_images.stack.images import Kept
from doit_images.stack.place import Place

_CHOICE, _MOVED, _PINNED = "stack.json", "beside.yml", "beside-images.json"
_COMING_UP = 3600.0  # for so many seconds a stack that holds nothing may be about to come up


@dataclass(frozen=True)
class Choice:
    """The stack of one checkout: what its files call the project, its own name, whether it runs ``beside`` that of
    another checkout, and then which port each of the files' is. ``of`` says which folder of which git repository it
    is of, also when that is gone."""

    project: str
    name: str
    directory: str
    engine: str
    files: tuple[str, ...] = ()
    of: str = ""
    beside: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Where its checkout is, or was."""
        return Place.of(Path(self.directory))


@dataclass(frozen=True)
class Other:
    """A stack of another folder: its name, and which ports and names of containers, networks and volumes it has now."""

    name: str
    place: Place
    ports: Set[int] = frozenset()
    containers: Set[str] = frozenset()
    resources: Set[str] = frozenset()

    def is_beside(self, here: Place) -> bool:
        """Whether it is that of another checkout of the same project, which is there."""
        return self.place.there and here.is_twin(self.place)


def of(run: Run) -> Choice:
    """The stack of this checkout as far as names tell; nothing is written. See ``settled``."""
    return _chosen(run, _others(run.project, run.engine))


def compose_of(run: Run) -> Compose:
    """The stack of this checkout, as Compose is told about it."""
    choice = of(run)
    made = [path for path in _overrides(run.folder) if path.is_file()] if choice.beside else []
    return Compose((*run.files, *made), choice.name, run.environ)


def locked(engine: str, name: str) -> contextlib.AbstractContextManager[object]:
    """The right to change the containers of a stack, by its name and the engine's address; another run that does so, of
    whatever checkout, is waited for."""
    path = lock.of_engine(engine, "stack", name)
    return lock.exclusive(path, f"waiting for another run that changes {name}")


def project_of(run: Run) -> Compose:
    """The project as its files have it, whichever checkout's stack has its name."""
    return Compose(run.files, run.project.name, run.environ)


def settled(run: Run) -> Compose:
    """The stack of this checkout, chosen for good, as Compose is told about it; for whoever starts it. Says so where it
    is not the first, and what it shares with others. ``UserError`` when no port is free."""
    with lock.exclusive(lock.of_engine(run.engine.address, "checkouts"), "waiting for another checkout's choice"):
        others = _others(run.project, run.engine)
        choice = _chosen(run, others)
        compose, joined = Compose(run.files, choice.name, run.environ), run.settings.stack_networks
        if not choice.beside and is_in_the_way(compose, choice, others, joined):
            choice = dataclasses.replace(choice, beside=True)
        if not choice.beside:
            _keep(run.folder, choice)
            return compose
        config = compose.config()
        choice = dataclasses.replace(choice, ports=_ports(choice, config))
        _keep(run.folder, choice)
    moved, images = _overrides(run.folder)
    fixed = compose_override.names_of_files(config, _elsewhere(compose))
    files.write(moved, compose_override.override(config, fixed, choice.ports, joined))
    if not images.is_file():
        files.write(images, compose_override.pinned(config, {}))
    print(f"the stack of this checkout is {choice.name}, beside {_first(choice, others)}", file=sys.stderr)
    for sentence in compose_override.shared(config, choice.place.root, joined):
        print(sentence, file=sys.stderr)
    return dataclasses.replace(compose, files=(*compose.files, moved, images))


def pin(folder: Path, compose: Compose, images: Mapping[str, Kept]) -> None:
    """Start the services of a stack that runs beside another from these images, whoever else gives them names."""
    moved, path = _overrides(folder)
    if path in compose.files:
        own = compose.files[: compose.files.index(moved)]
        plain = Compose(own, compose.project, compose.environ).config()
        files.write(path, compose_override.pinned(plain, images))


def forget(choice: Choice, *, for_good: bool = False) -> None:
    """Forget a stack that is gone: one with the project's own name, or whose checkout is gone, or any ``for_good``."""
    if for_good or not choice.beside or not choice.place.there:
        with contextlib.suppress(OSError):
            _entry(choice).unlink()


def known(engine: str) -> list[Choice]:
    """The stacks that were chosen on this machine for this engine, of whatever project."""
    choices = (_choice(checked_json.recall(path)) for path in sorted(_registry().glob("*.json")))
    return [choice for choice in choices if choice and choice.engine == engine]


def decide(choice: Choice, kept: Choice | None, others: Sequence[Other], wanted: str = "") -> Choice:
    """The stack of a checkout. ``choice`` is that of a first one, ``kept`` what was chosen before, ``others`` all that
    there are, ``wanted`` the name that the user gave it.

    It is a first one unless another checkout has its name. A name that is its own stays.
    """
    if wanted:
        ports = kept.ports if kept and kept.name == wanted else {}
        return dataclasses.replace(choice, name=wanted, beside=wanted != choice.name, ports=ports)
    if kept and kept.beside:
        return dataclasses.replace(choice, name=kept.name, beside=True, ports=kept.ports)
    here = choice.place
    if any(other.name == choice.name and other.is_beside(here) for other in others):
        taken = {choice.name, *(other.name for other in others)}
        return dataclasses.replace(choice, name=name_for(choice.project, here.root, taken), beside=True)
    return choice


def is_in_the_way(compose: Compose, choice: Choice, others: Sequence[Other], joined: Collection[str]) -> bool:
    """Whether another checkout of the same repository, whose stack has another name, has a port, or the name of a
    container, network (but those that are ``joined``) or volume, that the files give to this one."""
    here = choice.place
    relatives = [other for other in others if other.name != choice.name and here.is_relative(other.place)]
    relatives = [other for other in relatives if other.place.there]
    if not relatives:
        return False
    config = compose.config()
    names = {service.get("container_name") for service in (config.get("services") or {}).values()}
    fixed = compose_override.names_of_files(config, _elsewhere(compose)).difference(joined)
    ports = compose_override.published(config)
    return any(
        ports & other.ports or names & other.containers or (fixed and fixed & _resources(other)) for other in relatives
    )


def _resources(other: Other) -> set[str]:
    """The names of the networks and volumes of a stack, those included that are there while it is down."""
    kept = Containers(other.name).belongings()
    return {*other.resources, *kept.networks, *kept.volumes}


def _elsewhere(compose: Compose) -> dict[str, object]:
    """What Compose would say of the project under a name that no stack of it has."""
    return dataclasses.replace(compose, project=f"{compose.project}-elsewhere").config()


def name_for(project: str, root: Path, taken: Collection[str]) -> str:
    """What the stack of a checkout is called that is not the first: after the project and the checkout's folder.

    >>> name_for("shop", Path("/src/feature"), ()), name_for("shop", Path("/src/shop-feature"), ())
    ('shop-feature', 'shop-feature')
    >>> name_for("shop", Path("/b/shop"), {"shop"})
    'shop-b'
    """
    slug = re.sub(r"[^a-z0-9_-]+", "-", root.name.lower()).strip("-_")
    if slug in (project, ""):
        slug = re.sub(r"[^a-z0-9_-]+", "-", root.parent.name.lower()).strip("-_")
    name = slug if re.match(re.escape(project) + "[-_]", slug) else f"{project}-{slug}".rstrip("-")
    if name in taken:
        name = f"{name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:6]}"
    return name


def _chosen(run: Run, others: Sequence[Other]) -> Choice:
    project = run.project
    place = Place.of(project.directory)
    choice = Choice(
        project.name,
        project.name,
        str(place.directory),
        run.engine.address,
        tuple(map(str, run.files)),
        f"{place.inner} of {place.origin}" if place.repository else "",
    )
    return decide(choice, _kept(run.folder, choice), others, run.settings.stack_name)


def _kept(folder: Path, choice: Choice) -> Choice | None:
    """What was chosen before for this checkout; a folder that was copied with its ``.doit-images`` is another one."""
    for path in (folder / _CHOICE, _entry(choice)):
        kept = _choice(checked_json.recall(path))
        if kept and (kept.project, kept.engine) == (choice.project, choice.engine):
            moved_here = not Path(kept.directory).exists()
            if kept.directory == choice.directory or moved_here:
                return kept
    return None


def _others(project: Project, engine: Engine) -> list[Other]:
    """The stacks of all other folders: by their containers, and by what was chosen there."""
    here = Place.of(project.directory)
    address, name = engine.address, project.name
    found = [
        Other(stack.project, Place.of(Path(stack.directory)), stack.ports, stack.containers, stack.resources)
        for stack in composed()
    ]
    claims = [choice for choice in known(address) if choice.directory != str(here.directory)]
    found += [Other(claim.name, claim.place) for claim in claims if claim.name != name or _holds(claim)]
    return [other for other in found if other.place.directory != here.directory]


def _holds(claim: Choice) -> bool:
    """Whether the engine holds anything of this stack, or soon may."""
    with contextlib.suppress(OSError):
        if time.time() - _entry(claim).stat().st_mtime < _COMING_UP:
            return True
    return bool(Containers(claim.name).belongings())


def _ports(choice: Choice, config: Mapping[str, object]) -> dict[str, int]:
    """A number for each port of the files that nobody else has, on this engine, on this machine, or kept for later."""
    own: set[int] = set()
    taken: set[int] = set()
    for stack in composed():
        (own if stack.project == choice.name else taken).update(stack.ports)
    for other in known(choice.engine):
        if other.directory != choice.directory and other.place.there:
            taken.update(other.ports.values())
    wanted = compose_override.wanted_ports(config)
    return compose_override.assigned(
        wanted, choice.ports, taken, lambda port: port in own or is_free(port), f"{choice.name} {choice.directory}"
    )


def _first(choice: Choice, others: Sequence[Other]) -> str:
    """Whose the other stack is: that with the project's name, or one of a relative."""
    here = choice.place
    twins = [other for other in others if other.is_beside(here)]
    twins = [other for other in twins if other.name == choice.project or here.is_relative(other.place)]
    first = min(twins, key=lambda other: (other.name != choice.project, str(other.place.root)), default=None)
    return f"that of {first.place.root}" if first else "those of other checkouts"


def _overrides(folder: Path) -> tuple[Path, Path]:
    return folder / _MOVED, folder / _PINNED


def _keep(folder: Path, choice: Choice) -> None:
    for path in (folder / _CHOICE, _entry(choice)):
        checked_json.remember(path, dataclasses.asdict(choice))


def _choice(content: Mapping[str, Any] | None) -> Choice | None:
    """The choice that was kept; None for nothing, or what another version wrote."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        choice = Choice(**{**(content or {}), "files": tuple((content or {})["files"])})
        return choice if fits(choice, Choice) else None
    return None


def _entry(choice: Choice) -> Path:
    text = "\0".join((choice.engine, choice.directory, choice.project))
    return _registry() / f"{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}.json"


def _registry() -> Path:
    return places.state_folder() / "stacks"
