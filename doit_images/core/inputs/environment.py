"""Which variables of the environment does a build read, besides those that its declaration names?

buildx reads many by itself. ``docs/staleness.md`` lists them, each with what becomes of it, from buildx's source: a
build does not get it, or it counts, or it cannot change an image. One that only a later buildx knows counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from doit_images.core.base import files
from doit_images.core.base.masking import HIDDEN
from doit_images.core.compose.image import Image
from doit_images.core.engine import plugins

SOURCE_POLICY = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
"""Names a file of rules that refuse sources, or put others in their place."""
CLEARED = frozenset({"BUILDX_EXPERIMENTAL", "BUILDX_GIT_LABELS", "BUILDX_NO_DEFAULT_LOAD"})
"""What no build gets: labels that each commit changes, no image in the engine, another way through buildx."""
ATTESTING = frozenset({"BUILDX_GIT_CHECK_DIRTY", "BUILDX_GIT_INFO", "BUILDX_NO_DEFAULT_OCI_ARTIFACT"})
"""What changes attestations only."""
HARMLESS = (
    r"BUILDX_(BAKE_\w+|BUILDER|CONFIG|(CPU|MEM)_PROFILE|DAP_USER_AGENT|METADATA_(PROVENANCE|WARNINGS)"
    r"|NO_DEFAULT_ATTESTATIONS|SEND_GIT_QUERY_AS_INPUT)"
    r"|BUILDKIT_(COLORS|DEBUG_PANIC_ON_ERROR|EXPORTEDPRODUCT|HOST|NO_CLIENT_TOKEN|PROGRESS|SESSION_ID|TTY_LOG_LINES"
    r"|WORKERS"
    r"|BUILD_NAME|CACHE_MOUNT_NS|CONTEXT_KEEP_GIT_DIR|DOCKERFILE_CHECK|INLINE_BUILDINFO_ATTRS|INLINE_CACHE|MULTI_PLATFORM"
    r"|SYNTAX)"
)
"""The names of what buildx is known to read and no image depends on; the last ones are those of build arguments, and
count as such."""
_ITS_OWN = ("BUILDX_", "BUILDKIT_", "EXPERIMENTAL_BUILDKIT_")


def of_build(environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The environment in which ``docker buildx build`` runs, wherever that is; ``directory`` is the project's.
    Provenance that nobody asked for would give every build another digest, and so children and registries another
    parent."""
    kept = {name: value for name, value in environ.items() if name not in CLEARED}
    if kept.get(SOURCE_POLICY):
        kept[SOURCE_POLICY] = str(directory / kept[SOURCE_POLICY])
    return {**kept, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


def digests(environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The variables that may change an image: a digest of each one's value, or of the file that it names;
    ``directory`` is the project's."""
    return {
        name: HIDDEN + hashlib.sha256(_content(name, environ[name], directory)).hexdigest()
        for name in sorted(name for name in environ if name.startswith(_ITS_OWN))
        if environ[name] and _may_count(name, environ)
    }


def counted(image: Image, digests: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Those of them that may change this image, as a setting of it; nothing where there are none."""
    attested = image.provenance or image.sbom
    some = {name: digest for name, digest in digests.items() if attested or name not in ATTESTING}
    return {"environment": some} if some else {}


def _may_count(name: str, environ: Mapping[str, str]) -> bool:
    if name in CLEARED or re.fullmatch(HARMLESS, name):
        return False
    return plugins.mentions("docker-buildx", name, environ)


def _content(name: str, value: str, directory: Path) -> bytes:
    try:
        return files.content(directory / value) if name == SOURCE_POLICY else value.encode(errors="surrogateescape")
    except OSError:
        return b""  # buildx says what is wrong with it
