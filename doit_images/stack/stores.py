"""Which services keep data that can be saved, brought back and compared, and how?

The Compose file says so, in ``x-backup``, for whichever services there are:

    x-backup:
      postgres: {script: docker/postgres/backup.sh, accepts: {service: migrate, command: [python, …, --knows]}}
      redis: {script: docker/redis/backup.sh, load: stopped}

A script is handed to the shell of the service's container with one of the words ``save``, ``load``, ``version`` and
``data``, so it needs nothing of ours in the image, and works in one that was built before it. ``load: stopped``: it is
done in a container of its own while the service is stopped. ``accepts`` is a command of a service that is given the
version that an archive is of, and fails, with a sentence, if that is too new.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from doit_images.core.base import commands, files
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError
from doit_images.core.base.masking import masked
from doit_images.core.compose.stack import Compose
from doit_images.stack import secrets

DECLARED = "x-backup"


@dataclass(frozen=True)
class Store:
    """A service whose data can be saved. ``script`` is the text of its script."""

    service: str
    script: str
    load_stopped: bool = False
    accepts: tuple[str, ...] = ()
    """A service, and the command in it."""


@dataclass(frozen=True)
class Part:
    """A part of a store's data: its name, how many things it has, a checksum over them, and until when it lives, in
    milliseconds since the epoch (0: for ever)."""

    name: str
    count: int
    checksum: str
    until: int = 0


def declared(compose: Compose) -> list[Store]:
    """The stores of a project, by name. ``UserError`` where the declaration is not of the form above."""
    config = compose.config()
    found = config.get(DECLARED) or {}
    try:
        return [_store(compose.directory, name, dict(found[name]), config["services"]) for name in sorted(found)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{DECLARED} is not understood: {error}", where=str(compose.files[0])) from None


def _store(folder: Path, name: str, said: Mapping[str, Any], services: Mapping[str, Any]) -> Store:
    if odd := sorted(said.keys() - {"script", "load", "accepts"}):
        raise ValueError(f"{name} has {odd[0]}")
    accepts = said.get("accepts") or {}
    for service in (name, *([accepts["service"]] if accepts else [])):
        if service not in services:
            raise ValueError(f"there is no service {service}")
    if said.get("load", "running") not in ("running", "stopped"):
        raise ValueError(f"load of {name} is neither running nor stopped")
    command = (accepts["service"], *accepts["command"]) if accepts else ()
    return Store(name, files.text(folder / said["script"]), said.get("load") == "stopped", command)


def save(compose: Compose, store: Store, file: IO[bytes]) -> None:
    """Write the store's data, as of one moment, into ``file``."""
    _checked(store, "save", _run(compose, _exec(store, "save"), stdout=file), compose)


def load(compose: Compose, store: Store, file: IO[bytes]) -> None:
    """Put what ``file`` holds in place of the store's data. When that fails, what was there is still there."""
    argv = _alone(store.service, *_shell(store, "load")) if store.load_stopped else _exec(store, "load")
    _checked(store, "load", _run(compose, argv, stdin=file), compose)


def version(compose: Compose, store: Store) -> str:
    """Which version the store's data is of; "" where that has none."""
    return _checked(store, "version", _run(compose, _exec(store, "version")), compose).stdout.strip()


def data(compose: Compose, store: Store) -> list[Part]:
    """What there is, part by part."""
    return parts(_checked(store, "data", _run(compose, _exec(store, "data")), compose).stdout)


def parts(said: str) -> list[Part]:
    """The parts in what a script says; ``UserError`` if that is something else."""
    try:
        return [Part(name, int(count), checksum, *map(int, until)) for name, count, checksum, *until in _words(said)]
    except (ValueError, TypeError) as error:
        raise UserError(f"what is there cannot be counted: {error}") from None


def _words(said: str) -> Iterable[list[str]]:
    return (line.split() for line in said.splitlines() if line.strip())


def differences(before: Sequence[Part], after: Sequence[Part], now: float) -> list[str]:
    """How the parts of ``after`` differ from those of ``before``, in words; what was to live until ``now`` (seconds
    since the epoch) may be gone."""
    there = {part.name: part for part in after}
    told = []
    for part in before:
        found = there.pop(part.name, None)
        if found is None:
            told += [] if 0 < part.until <= now * 1000 else [f"{part.name} is gone"]
        elif found.count != part.count:
            told.append(f"{part.name} has {found.count:,} where it had {part.count:,}")
        elif (found.checksum, found.until) != (part.checksum, part.until):
            told.append(f"{part.name} is another")
    return [*told, *(f"{name} is new" for name in there)]


def refusal(compose: Compose, store: Store, version: str) -> str:
    """Why data of this version cannot be used by the services that are built here, in a sentence; "" if it can."""
    if not version or not store.accepts:
        return ""
    service, *command = store.accepts
    done = _run(compose, _alone(service, *command, version))
    return hidden(last_words(done.stdout or done.stderr), compose) or "it is refused" if done.status else ""


def _shell(store: Store, verb: str) -> list[str]:
    return ["sh", "-c", store.script, "sh", verb]


def _exec(store: Store, verb: str) -> list[str]:
    return ["exec", "--no-TTY", store.service, *_shell(store, verb)]


def _alone(service: str, *command: str) -> list[str]:
    return ["--progress", "quiet", "run", "--rm", "--no-deps", "--no-TTY", service, *command]


def _run(
    compose: Compose, words: Sequence[str], *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | int = commands.PIPE
) -> commands.Done:
    argv = compose.argv(*words)
    return commands.run(argv, cwd=compose.directory, env=compose.env, stdin=stdin, stdout=stdout)


def _checked(store: Store, verb: str, done: commands.Done, compose: Compose) -> commands.Done:
    if done.status:
        why = hidden(last_words(done.stderr or done.stdout), compose)
        raise UserError(f"{verb} of {store.service} failed: {why or f'status {done.status}'}")
    return done


def hidden(text: str, compose: Compose) -> str:
    """What a container said, without secrets."""
    return masked(secrets.hidden(text, compose.directory, compose.environ), os.environ)
