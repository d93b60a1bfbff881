"""Which secrets of builds make another image where they have another value?

BuildKit counts none: the same step with another password comes from its cache. Those that ``x-counted-secrets`` of the
Compose file names become an argument too, ``SECRET_DIGEST_<id>``: what a Dockerfile declares counts, for BuildKit and
for the plan. Its value is a digest by a key (HMAC-SHA256), so nobody who sees it can try out passwords.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from doit_images.core.base.errors import UserError
from doit_images.core.compose import env_files
from doit_images.core.compose.image import SECRET_DIGEST, Image
from doit_images.core.compose.project import Project

_SHORTEST = 16  # bytes: as many cannot be guessed


def counted(project: Project, key: str, environ: Mapping[str, str]) -> Project:
    """The project whose images get the digests of the secrets that count, by the key in this file. Raises ``UserError``
    where there is no such key, or a secret's file cannot be read."""
    asked = [secret for image in project.images.values() for secret in image.secrets if secret.counts]
    given = env_files.with_values(project.files, environ, [one.environment for one in asked if one.environment])
    read = _key(key, asked[0].id)
    images = {name: _with_digests(image, read, given) for name, image in project.images.items()}
    return project._replace(images=images)


def _key(file: str, ident: str) -> bytes:
    wanted = f"SECRETS_KEY names a file of at least {_SHORTEST} random bytes, the same for all who share results"
    if not file:
        raise UserError(f"the secret {ident} counts, and there is no key by which", remedy=wanted)
    try:
        key = Path(file).expanduser().read_bytes().strip()
    except OSError as error:
        raise UserError(f"the key by which secrets count cannot be read: {error.strerror}", where=file) from None
    if len(key) < _SHORTEST:
        raise UserError("the key by which secrets count is too short", where=file, remedy=wanted)
    return key


def _with_digests(image: Image, key: bytes, environ: Mapping[str, str]) -> Image:
    digests = {}
    for secret in (secret for secret in image.secrets if secret.counts):
        missing = secret.file and not os.path.exists(secret.file)  # noqa: PTH110  the plan tells it
        value = b"" if missing else secret.read(environ)
        digests[f"{SECRET_DIGEST}{secret.id}"] = hmac.digest(key, f"{secret.id}=".encode() + value, "sha256").hex()
    return replace(image, args={**image.args, **digests}) if digests else image
