"""The data of a stack, saved and brought back.

An archive is a folder for its owner alone: a file for each store (``stack.stores``) and ``manifest.json``, which says
what they are and has their digests. It is complete or not there at all.

    backup     save each store ──> files, digests ──> manifest ──> the folder gets its name
    restore    archive whole and not too new? ──> agreed ──> what is there is saved ──> services stop, stores load,
               all is started, tables of an older version are brought to this one, and waited for
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from doit_images.core.base import commands, files, leftovers
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.compose.stack import Compose
from doit_images.core.run import Run
from doit_images.stack import bringup, checkout, ending, images, stores
from doit_images.stack.checkout import compose_of, locked
from doit_images.stack.containers import Containers
from doit_images.stack.events import ServicesListed, rows_of, waiting
from doit_images.stack.health import wait
from doit_images.stack.stores import Store

MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """One store in an archive."""

    file: str
    bytes: int
    sha256: str
    version: str


@dataclass(frozen=True)
class Archive:
    """A saved stack: its folder, its project, when it was saved, and its stores."""

    folder: Path
    project: str
    made: str
    stores: dict[str, Saved]


def backup(run: Run, to: str) -> None:
    """The action of ``backup``: save all stores while the stack runs; prints the archive's folder."""
    compose = compose_of(run)
    with locked(run.engine.address, compose.project):
        archive = save(run, compose, _stores(compose), Path(to) if to else None)
    print(archive.folder)
    size = sum(saved.bytes for saved in archive.stores.values())
    print(f"saved {', '.join(archive.stores)}, {size_text(size)}", file=sys.stderr)


def _stores(compose: Compose) -> list[Store]:
    if not (found := stores.declared(compose)):
        raise UserError(f"no service declares in {stores.DECLARED} how to save its data", where=str(compose.files[0]))
    return found


def save(run: Run, compose: Compose, which: Sequence[Store], to: Path | None = None) -> Archive:
    """Save these stores into a new folder below ``to`` (default: the project's backups). ``UserError`` when one does
    not run or cannot be saved: then there is no archive."""
    running = {container.service for container in Containers(compose.project).look() if container.running}
    if missing := [store.service for store in which if store.service not in running]:
        raise UserError(f"{missing[0]} does not run, so its data cannot be saved", remedy="doit up")
    parent = to or run.common / "backups" / run.project.name
    now = time.time()
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{os.urandom(2).hex()}"
    partial = folder.with_name(f"{folder.name}.partial")
    parent.mkdir(parents=True, exist_ok=True)
    with leftovers.noted(partial):
        partial.mkdir(mode=0o700)
        saved = {store.service: _save(compose, store, partial) for store in which}
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        content = {"format": _FORMAT, "project": run.project.name, "made": made,
                   "stores": {name: asdict(each) for name, each in saved.items()}}  # fmt: skip
        files.write_json(partial / MANIFEST, content)
        partial.rename(folder)
    return Archive(folder, run.project.name, made, saved)


def _save(compose: Compose, store: Store, folder: Path) -> Saved:
    path = folder / f"{store.service}.data"
    version = stores.version(compose, store)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        stores.save(compose, store, file)
        os.fsync(file.fileno())
    return Saved(path.name, path.stat().st_size, _digest(path), version)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path) -> Archive:
    """Read the archive in a folder and check each of its files. ``UserError`` if it is not one, or was changed."""
    try:
        content = json.loads(files.content(folder / MANIFEST))
        if content["format"] > _FORMAT:
            raise UserError("this archive was made by a later version of these tasks", where=str(folder))
        known = [field.name for field in fields(Saved)]
        saved = {name: Saved(**{key: each[key] for key in known}) for name, each in content["stores"].items()}
        archive = Archive(folder, str(content["project"]), str(content["made"]), saved)
    except FileNotFoundError:
        raise UserError("this folder is not an archive of doit backup", where=str(folder)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"this archive is damaged: {error}", where=str(folder / MANIFEST)) from None
    for each in saved.values():
        path = folder / each.file
        if path.parent != folder or not path.is_file() or _digest(path) != each.sha256:
            raise UserError("this archive is damaged: a file has the wrong checksum", where=str(path))
    return archive


def restore(run: Run, words: Sequence[str], *, yes: bool) -> None:
    """The action of ``restore``: put an archive in the place of the stack's data. ``UserError`` before anything is
    touched when the archive cannot be used."""
    if len(words) != 1:
        raise UserError("one archive is restored at a time", remedy="doit restore FOLDER")
    archive, compose = read(Path(words[0])), checkout.settled(run)
    known = {store.service: store for store in _stores(compose)}
    if odd := sorted(archive.stores.keys() - known.keys()):
        raise UserError(f"this archive holds {odd[0]}, which is not a store of this project", where=str(archive.folder))
    which = [known[name] for name in archive.stores]
    for store in which:
        if why := stores.refusal(compose, store, archive.stores[store.service].version):
            raise UserError(f"{why}; nothing was changed", where=str(archive.folder))
    names = ", ".join(archive.stores)
    print(f"this puts {names} of {archive.project}, as of {archive.made}, in place of what {compose.project} holds",
          file=sys.stderr)  # fmt: skip
    if not yes:
        confirm()
    with locked(run.engine.address, compose.project):
        _restore(run, compose, archive, which)


def _restore(run: Run, compose: Compose, archive: Archive, which: Sequence[Store]) -> None:
    names = [store.service for store in which]
    kept = images.kept(run)
    checkout.pin(run.folder, compose, kept)
    terms, built = bringup.terms(run, "restore"), images.named(kept)
    needed = bringup.start(replace(compose, only=tuple(names)), terms, built)
    if not needed.healthy:
        raise UserError(bringup.explain(needed, compose))
    back, trouble, stopped = "", None, list[str]()
    try:
        stopped = stop(compose, names)
        before = save(run, compose, which)
        back = f"doit restore {before.folder} goes back"
        print(f"what was there is kept in {before.folder}", file=sys.stderr)
        for store in sorted(which, key=lambda store: store.load_stopped):
            _load(compose, store, archive)
    except UserError as error:
        trouble = error
    outcome = bringup.start(compose, terms, built=built)
    if trouble:
        raise UserError(f"{trouble}; the stack was started again", remedy=back)
    if not outcome.healthy:
        raise UserError(bringup.explain(outcome, compose), remedy=back)
    _run_again(compose, stopped, terms, back)
    run.events.emit(ServicesListed(rows_of(outcome)))
    print(f"restored {', '.join(names)} as of {archive.made}", file=sys.stderr)


def _run_again(compose: Compose, stopped: Sequence[str], terms: bringup.Terms, back: str) -> None:
    """Start what was stopped and Compose passed over, as it is of a profile that is not active here, and wait for it.
    ``UserError`` unless it is well again."""
    project = Containers(compose.project)
    left = {each.name: each.service for each in project.look() if each.name in stopped and not each.running}
    if not left:
        return
    commands.run(["docker", "start", *left], env=compose.env).checked("what ran before cannot be started again")
    with waiting(terms.events) as show:
        outcome = wait(project, Counter(left.values()), terms.limits, working=lambda: False, show=show)
    if not outcome.healthy:
        raise UserError(bringup.explain(outcome, compose), remedy=back)


def stop(compose: Compose, but: Sequence[str]) -> list[str]:
    """Stop everything of the project but these services, also what this Compose file does not know. Returns the names
    of the containers."""
    there = Containers(compose.project).look()
    others = [container for container in there if container.running and container.service not in but]
    if others:
        if why := ending.begin(compose, *{container.service for container in others}):
            raise UserError(why)
        commands.run(["docker", "stop", *(container.name for container in others)], env=compose.env).checked(
            "the services cannot be stopped"
        )
    return [container.name for container in others]


def _load(compose: Compose, store: Store, archive: Archive) -> None:
    if store.load_stopped:
        compose.run("--progress", "plain", "stop", store.service).checked(f"{store.service} cannot be stopped")
    with (archive.folder / archive.stores[store.service].file).open("rb") as file:
        stores.load(compose, store, file)
