"""What did the package leave on this machine for one project, and how is it removed?

Only what is proved to be ours: names in the engine by the label of the image that has them, folders by their place and
name. What another checkout needs stays, and so do data: backups, volumes, ``.env``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from doit_images.core.base import leftovers, lock, places
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import repository
from doit_images.core.buildkit import builder
from doit_images.core.engine.client import normalise
from doit_images.core.engine.labels import INPUT_DIGEST
from doit_images.core.planning import checkouts, record
from doit_images.core.run import Run
from doit_images.pruning import disk_usage, repairs
from doit_images.stack import checkout
from doit_images.stack.containers import Containers

_BACKUPS = "backups"


class Thing(NamedTuple):
    """Something to remove: its description, and how it is removed. ``go`` may raise ``UserError`` or ``OSError``."""

    what: str
    go: Callable[[], object]


def in_engine(run: Run) -> Iterator[Thing]:
    """The names of fingerprints and of builds on the project's images, the dedicated builder, and what others know of
    its stack. Raises ``UserError`` where the engine does not answer, the Compose files cannot be read, or the stack is
    up."""
    common = common_of(run.files)
    for choice in checkout.known(run.engine.address):
        if choice.directory == str(run.project.directory):
            if Containers(choice.name).look():
                raise UserError(f"the stack {choice.name} is up", remedy="`doit down` first")
            yield Thing(
                f"which stack is this checkout's: {choice.name}", partial(checkout.forget, choice, for_good=True)
            )
    for ref in _names(run, common):
        yield Thing(f"the name {ref} in the engine", partial(run.engine.untag, ref))
    made = builder.state(common)
    if made.get("ours") and not any(builder.state(other).get("name") == made["name"] for other in _others(common)):
        yield Thing(f"the builder {made['name']} with its cache", partial(builder.remove, made["name"], run.environ))


def in_files(files: tuple[Path, ...]) -> Iterator[Thing]:
    """The folder ``.doit-images`` with all but backups, and what tells other checkouts of it; when no other is left,
    all that is kept for them together."""
    common = common_of(files)
    if common.is_dir():
        kept = f", but for {_BACKUPS}" if (common / _BACKUPS).exists() else ""
        yield Thing(f"the folder {common}{kept}", partial(_empty, common))
    state = places.state_folder()
    if not _others(common):
        if state.is_dir():
            yield Thing(f"the folder {state}", partial(shutil.rmtree, state))
        return
    for path, folder in checkouts.entries():
        if folder.parent == common:
            yield Thing(f"the file {path}", partial(path.unlink, missing_ok=True))


def locks() -> Iterator[Thing]:
    """The locks that nobody holds."""
    for repair in repairs.locks(lock.for_everybody(), idle=0):
        yield Thing(repair.what.replace("remove", "the lock", 1), repair.do)


def common_of(files: tuple[Path, ...]) -> Path:
    """The project's ``.doit-images``, which need not be there."""
    return files[0].parent / OWN_FOLDER


def _names(run: Run, common: Path) -> list[str]:
    """The names that are of use to these tasks alone, under what the images are called, or were when they were built
    here; not those that another checkout needs."""
    built = (record.read(path.parents[1], path.stem) for path in common.glob("*/images/*.json"))
    repositories = {repository(normalise(known.ref)) for known in built if known}
    repositories |= disk_usage.repositories_of(run.project, run.settings)
    needed = {normalise(ref) for ref, folder in checkouts.needs(run.folder) if folder.parent != common}
    ours = {image.id: image for image in run.local_images.snapshot().every() if INPUT_DIGEST in image.labels}
    names = {name for image in ours.values() for name in disk_usage.own_names(image, repositories)}
    return sorted(name for name in names if normalise(name) not in needed)


def _others(common: Path) -> set[Path]:
    """The folders ``.doit-images`` of other checkouts, of whatever project."""
    return {folder.parent for _, folder in checkouts.entries() if folder.parent != common and folder.is_dir()}


def _empty(common: Path) -> None:
    for path in common.iterdir():
        if path.name not in (_BACKUPS, ".gitignore"):
            leftovers.remove(path)
    if not (common / _BACKUPS).exists():
        shutil.rmtree(common)
