"""What do Compose's env files say of the variables that builds read?

Not only the text of its files is resolved against ``.env`` and ``COMPOSE_ENV_FILES``: the platform, secrets with
``environment:`` and the agent of ``ssh:`` are too. buildx does not know these files, so builds get the values in their
environment. Compose itself reads them: what may stand in quotes, and which of several files wins, it knows best.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from doit_images.core.base import files as kept
from doit_images.core.base.errors import UserError
from doit_images.core.base.masking import safe_arguments
from doit_images.core.base.settings import read_env
from doit_images.core.compose import answer
from doit_images.core.compose.image import Image


def with_values(files: tuple[Path, ...], environ: Mapping[str, str], names: Iterable[str]) -> Mapping[str, str]:
    """This environment, with what the env files of the project of these Compose ``files`` give of the variables
    ``names`` that it does not set. ``UserError`` where Compose refuses them."""
    texts = b"".join(kept.content(path) for path in answer.env_files(files, environ) if path.is_file())
    wanted = sorted(name for name in names if name not in environ and os.fsencode(name) in texts)
    if not wanted:  # to ask takes 0.1 s
        return environ
    from doit_images.core.compose.stack import Compose

    values = Compose(files, "", environ).values(wanted)
    for name in (name for name, value in values.items() if "\ufffd" in value):
        raise UserError(f"{name} has a value that is not UTF-8", where="an env file")
    return {**environ, **values}


def from_above(root: Path, files: tuple[Path, ...], environ: Mapping[str, str]) -> Mapping[str, str]:
    """This environment, with what Compose reads of ``root``, the folder that it is started in, where ``files`` lie in a
    folder below: ``COMPOSE_ENV_FILES`` are ``root``'s, and where ``root/.env`` names the files, it comes before the one
    beside them. Of files that the environment names only later versions of Compose say so too; there it does not."""
    if files[0].parent == root or not files[0].is_relative_to(root):
        return environ
    if named := environ.get("COMPOSE_ENV_FILES"):
        return {**environ, "COMPOSE_ENV_FILES": ",".join(str(root / name) for name in named.split(",") if name)}
    if "COMPOSE_FILE" in environ:
        return environ
    return with_values((root / "compose.yml",), environ, read_env(root / ".env"))


def read_by(image: Image) -> set[str]:
    """The variables that a build of this image reads, or that keep an argument off its command line."""
    names = {secret.environment for secret in image.secrets if secret.environment}
    names |= {name for name, safe in safe_arguments(image.args).items() if safe is None or safe != image.args[name]}
    return names | {"SSH_AUTH_SOCK"} if image.ssh else names


def unset(images: Iterable[Image], environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence about each secret of these images that has no value in ``environ``, and need not be without."""
    users: dict[tuple[str, str], list[str]] = {}
    for image in images:
        for secret in image.secrets:
            if secret.environment and secret.environment not in environ and not secret.optional:
                users.setdefault((secret.id, secret.environment), []).append(image.name)
    for (name, variable), of in users.items():
        yield f"{variable} is not set, so the secret {name} of {', '.join(of)} is empty, as with Compose"
