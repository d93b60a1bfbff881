"""Which services keep data that can be saved and brought back, and how?

The Compose file says so, in ``x-backup``, for whichever services there are:

    x-backup:
      postgres: {script: docker/postgres/backup.sh, accepts: {service: migrate, command: [python, …, --knows]}}
      redis: {script: docker/redis/backup.sh, load: stopped}

A script is handed to the shell of the service's container with one of the words ``save``, ``load`` and ``version``, so
it needs nothing of ours in the image, and works in one that was built before it. ``load: stopped``: it is done in a
container of its own while the service is stopped. ``accepts`` is a command of a service that is given the version that
an archive is of, and fails, with a sentence, if that is too new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from doit_images.core.base import commands, files
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError
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


def declared(compose: Compose) -> list[Store]:
    """The stores of a project, by name. ``UserError`` where the declaration is not of the form above."""
    config = compose.config()
    found = config.get(DECLARED) or {}
    try:
        return [_store(compose.directory, name, dict(found[name]), config["services"]) for name in sorted(found)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{DECLARED} is not understood: {error}", where=str(compose.files[0])) from None


def _store(folder: Path, name: str, given: Mapping[str, Any], services: Mapping[str, Any]) -> Store:
    if odd := sorted(given.keys() - {"script", "load", "accepts"}):
        raise ValueError(f"{name} has {odd[0]}")
    accepts = given.get("accepts") or {}
    for service in (name, *([accepts["service"]] if accepts else [])):
        if service not in services:
            raise ValueError(f"there is no service {service}")
    if given.get("load", "running") not in ("running", "stopped"):
        raise ValueError(f"load of {name} is neither running nor stopped")
    command = (accepts["service"], *accepts["command"]) if accepts else ()
    return Store(name, files.text(folder / given["script"]), given.get("load") == "stopped", command)


def save(compose: Compose, store: Store, file: IO[bytes]) -> None:
    """Write the store's data, as of one moment, into ``file``."""
    _done(compose, store, "save", _exec(store, "save"), stdout=file)


def load(compose: Compose, store: Store, file: IO[bytes]) -> None:
    """Replace the store's data by what ``file`` holds. If that fails, the old data is still there."""
    argv = _alone(store.service, *_shell(store, "load")) if store.load_stopped else _exec(store, "load")
    _done(compose, store, "load", argv, stdin=file)


def version(compose: Compose, store: Store) -> str:
    """Which version the store's data is of; "" where that has none."""
    return said(compose, store, "version").strip()


def said(compose: Compose, store: Store, verb: str) -> str:
    """The answer of a running store's script to this word."""
    return _done(compose, store, verb, _exec(store, verb)).stdout


def refusal(compose: Compose, store: Store, version: str) -> str:
    """Why data of this version cannot be used by the services that are built here, in a sentence; "" if it can."""
    if not version or not store.accepts:
        return ""
    service, *command = store.accepts
    done = compose.run(*_alone(service, *command, version))
    return _hidden(last_words(done.stdout or done.stderr), compose) if done.status else ""


def _shell(store: Store, verb: str) -> list[str]:
    return ["sh", "-c", store.script, "sh", verb]


def _exec(store: Store, verb: str) -> list[str]:
    return ["exec", "--no-TTY", store.service, *_shell(store, verb)]


def _alone(service: str, *command: str) -> list[str]:
    return ["--progress", "quiet", "run", "--rm", "--no-deps", "--no-TTY", service, *command]


def _done(compose: Compose, store: Store, verb: str, words: Sequence[str], **streams: Any) -> commands.Done:
    done = compose.run(*words, **streams)
    if done.status:
        raise UserError(f"{verb} of {store.service} failed: {_hidden(done.why, compose)}")
    return done


def _hidden(text: str, compose: Compose) -> str:
    return secrets.hider(compose.directory, compose.environ)(text)
