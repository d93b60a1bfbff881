"""What does a Compose project declare of one image?"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from doit_images.core.base import files
from doit_images.core.base.errors import UserError, os_reason

_REMOTE = re.compile(r"^(https?://|git://|ssh://|git@|github\.com/|[\w.-]+@[\w.-]+:)")

SECRET_DIGEST = "SECRET_DIGEST_"  # noqa: S105  a name
"""How the argument begins that holds the digest of a secret that counts; the secret's id follows."""


@dataclass(frozen=True)
class Secret:
    """A BuildKit secret of a build: its id and where its value is read from, never the value. One that is ``optional``
    may have none; one that ``counts`` makes another image where it has another value (``counted_secrets``)."""

    id: str
    file: str = ""
    environment: str = ""
    optional: bool = False
    counts: bool = False

    def read(self, environ: Mapping[str, str]) -> bytes:
        """Its value now, nothing where its variable is not set. ``UserError`` where its file cannot be read."""
        if not self.file:
            return os.fsencode(environ.get(self.environment, ""))
        try:
            return files.content(Path(self.file))
        except OSError as error:
            raise UserError(f"the secret {self.id} cannot be read: {os_reason(error)}") from None


@dataclass(frozen=True)
class Image:
    """One service with a ``build:`` section, as Compose resolved it.

    Paths are absolute. ``contexts`` are the named contexts: ``service:NAME``, a folder, or anything
    else that ``docker buildx build --build-context`` takes. ``problem`` is why this image cannot be
    built, if its declaration already says so. ``unsupported`` are the keys that nothing can be told of, with their
    values as JSON: they count, and ``plan`` says so.
    """

    name: str
    ref: str
    context: str
    dockerfile: str = ""
    dockerfile_inline: str | None = None
    target: str | None = None
    args: Mapping[str, str | None] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    shm_size: str = ""
    extra_hosts: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False
    tags: tuple[str, ...] = ()
    entitlements: tuple[str, ...] = ()
    privileged: bool = False
    ulimits: tuple[str, ...] = ()
    provenance: str = ""
    sbom: str = ""
    no_cache_filter: tuple[str, ...] = ()
    unsupported: Mapping[str, str] = field(default_factory=dict)
    duplicate_of: str = ""
    problem: str = ""

    @property
    def remote_context(self) -> bool:
        """Whether the context is a URL or a git repository instead of a folder."""
        return is_remote(self.context)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name the built image must carry: its own first, then ``build.tags``."""
        return (self.ref, *self.tags)


def is_remote(context: str) -> bool:
    """Whether a context is a URL or a git repository instead of a folder."""
    return bool(_REMOTE.match(context))
