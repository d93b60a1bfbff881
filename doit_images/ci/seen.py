"""What can tests see of a stack that runs for them? All that counts for their result.

The images by their content, what Compose says of each service, and the files that are mounted; neither the
passwords and ports, which each such stack has for itself, nor where the checkout lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.ci import around
from doit_images.core.base import files
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError, meant
from doit_images.core.compose.stack import Compose
from doit_images.core.engine.client import normalise
from doit_images.core.local_images import LocalImages
from doit_images.core.planner import Planner
from doit_images.stack import secrets
from doit_images.stack.ephemeral_stack import variable, with_override

_ANY = "1"
_NAME = "seen"


class Services(NamedTuple):
    """Services as tests see them: the content of each one's image ("" where that is not known now), a digest of what
    Compose says of them, and one of what is mounted."""

    images: Mapping[str, str]
    declared: str
    mounted: str


def of_stack(local_images: LocalImages, planner: Planner, compose: Compose, only: Collection[str] = ()) -> Services:
    """What counts of these services and of those that they depend on (default: of all). Raises ``UserError`` for a
    service that is not there."""
    config = _declared(compose)
    services = config["services"]
    if missing := [name for name in only if name not in services]:
        raise UserError(
            f"there is no service {missing[0]!r}", where=str(compose.files[0]), remedy=meant(missing[0], services)
        )
    chosen = around.with_needs(only or services, services)
    started = [name for name in chosen if services[name].get("scale", 1)]
    images = {name: _content(local_images, planner, services[name].get("image") or "") for name in started}
    mounted = digest_of(around.mounted(config, chosen), compose.directory)
    return Services(images, around.declared(config, chosen, compose.directory), mounted)


def digest_of(paths: Iterable[Path], directory: Path) -> str:
    """One digest over the files at and below these paths: names as seen from ``directory``, modes and contents; of a
    link also where it leads."""
    total = hashlib.sha256()
    for path in sorted({file for each in paths for file in _below(each)}):
        what = ""
        try:
            what = f"-> {path.readlink()} " if path.is_symlink() else ""
            what += f"{path.stat().st_mode:o} {hashlib.sha256(files.content(path)).hexdigest()}"
        except OSError as error:  # also of a folder that a link leads to
            what += f"unreadable {error.errno}"
        total.update(os.fsencode(f"{os.path.relpath(path, directory)}\0{what}\0"))
    return total.hexdigest()


def _declared(compose: Compose) -> dict[str, Any]:
    """What Compose says, with the same in place of what differs from stack to stack."""
    environ = {**compose.environ, **dict.fromkeys(secrets.needed(compose.directory), _ANY)}
    plain = replace(with_override(compose), project=_NAME, environ=environ)
    config = plain.config()
    ports = {f"{variable(name)}_PORT": _ANY for name, service in config["services"].items() if service.get("ports")}
    return replace(plain, environ={**environ, **ports}).config() if ports else config


def _content(local_images: LocalImages, planner: Planner, ref: str) -> str:
    """The content of an image; "" where that is not known."""
    for decision in planner.decisions().values():
        if normalise(ref) in map(normalise, decision.inputs.image.names):
            return planner.content_after(decision)
    local_image = local_images.snapshot().get(ref) if ref else None
    return local_images.config_of(local_image).content if local_image else ""


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, names, inside in os.walk(path):
        names[:] = [name for name in names if name not in ("__pycache__", OWN_FOLDER)]
        links = [name for name in names if Path(folder, name).is_symlink()]  # they are not walked
        yield from (Path(folder, name) for name in (*links, *inside) if not name.endswith(".pyc"))
