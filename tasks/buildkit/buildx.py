"""How is an image built? The exact command line of ``docker buildx build``.

Pure, but for the two questions that a command line depends on: whether an environment variable is set, and
which buildx is installed. Argument names equal those of the CLI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from tasks.base import commands
from tasks.base.errors import UserError
from tasks.compose.project import Image, Secret

LEAST = (0, 13)
"""The oldest buildx that can be used: the first one with ``--progress=rawjson``."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.\d+")


def build_argv(
    image: Image,
    *,
    parents: Mapping[str, str],
    labels: Mapping[str, str],
    tag: str = "",
    iidfile: str,
    environ: Mapping[str, str],
    progress: str = "rawjson",
    extra: Sequence[str] = (),
) -> list[str]:
    """The command that builds ``image`` under the temporary name ``tag`` and leaves its id in ``iidfile``.

    ``parents`` maps a named context to the reference of the image that stands for it, ``labels`` are ours and
    come after the image's own, ``extra`` is what the builder and the caches need (output, builder, cache
    options). The image gets its own names later, when its inputs are known not to have moved meanwhile; until then
    ``tag`` keeps others from pruning it.
    A secret whose variable is not set is left out, so that an optional secret mount finds nothing.
    """
    argv = ["docker", "buildx", "build", f"--progress={progress}", "--iidfile", iidfile]
    if tag:
        argv += ["--tag", tag]
    if image.dockerfile_inline is not None:
        argv += ["--file", "-"]
    elif image.dockerfile:
        argv += ["--file", image.dockerfile]
    if image.target:
        argv += ["--target", image.target]
    for name, value in sorted(image.args.items()):
        argv += ["--build-arg", name if value is None else f"{name}={value}"]
    for name, value in sorted(image.contexts.items()):
        if not value.startswith("service:"):
            argv += ["--build-context", f"{name}={value}"]
    for name, ref in sorted(parents.items()):
        argv += ["--build-context", f"{name}=docker-image://{ref}"]
    for secret in image.secrets:
        if secret.file or environ.get(secret.environment):
            argv += ["--secret", secret_line(secret)]
    for agent in image.ssh:
        argv += ["--ssh", agent]
    for name, value in [*sorted(image.labels.items()), *sorted(labels.items())]:
        argv += ["--label", f"{name}={value}"]
    if image.platforms:
        argv += ["--platform", ",".join(image.platforms)]
    if image.network:
        argv += ["--network", image.network]
    if image.shm_size:
        argv += ["--shm-size", image.shm_size]
    for host in image.extra_hosts:
        argv += ["--add-host", host]
    for ulimit in image.ulimits:
        argv += ["--ulimit", ulimit]
    for entitlement in entitlements(image):
        argv += ["--allow", entitlement]
    for option, value in (("--provenance", image.provenance), ("--sbom", image.sbom)):
        if value:
            argv.append(f"{option}={value}")
    for stage in image.no_cache_filter:
        argv += ["--no-cache-filter", stage]
    return [*argv, *extra, image.context]


def secret_line(secret: Secret) -> str:
    """Where a secret is, as buildx takes it."""
    return one_line(f"id={secret.id}", f"src={secret.file}" if secret.file else f"env={secret.environment}")


def one_line(*fields: str) -> str:
    """Options as buildx takes them: one line of CSV.

    >>> one_line("type=local", "dest=/a,b")
    'type=local,"dest=/a,b"'
    """
    return ",".join('"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field for field in fields)


def entitlements(image: Image) -> tuple[str, ...]:
    """What the build must be allowed beyond the ordinary: its entitlements, and what ``privileged`` and the host's
    network mean (as Compose grants them)."""
    allowed = dict.fromkeys(image.entitlements)
    if image.privileged:
        allowed["security.insecure"] = None
    if image.network == "host":
        allowed["network.host"] = None
    return tuple(allowed)


def is_at_least(buildx_version: str, wanted: tuple[int, int]) -> bool:
    """Whether a buildx is of this version or a later one.

    ``buildx_version`` is what ``docker buildx version`` prints, or the number alone. A version that is not a
    number (a development build) counts as new.
    """
    found = _VERSION.search(buildx_version)
    return not found or (int(found[1]), int(found[2])) >= wanted


def require() -> None:
    """``UserError`` where there is no buildx, or one that is older than ``LEAST``. To ask costs 0.1 s: do so once a
    command has failed."""
    if not is_at_least(version(), LEAST):
        least = ".".join(map(str, LEAST))
        raise UserError(f"docker buildx is older than {least}", remedy=f"install {least} or a later one")


@cache
def version() -> str:
    """What ``docker buildx version`` prints; ``UserError`` where there is no docker command or no buildx."""
    done = commands.run(["docker", "buildx", "version"])
    if done.status:
        raise UserError("docker buildx is not installed", remedy="install docker-buildx, or let ./doitw do so")
    return done.stdout.strip()
